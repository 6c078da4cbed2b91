"""What the backends in main memory offer beside face.py: what nothing asks of a GPU."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .face import Backend, Mse, Sizes


class HostMse(Mse, Protocol):
    """Evaluation in two halves, between which the sums of workers are added up."""

    def block_sums(
        self, w: Any, rows: NDArray[np.int64] | None, of_gradient: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """The sums over blocks of 1024 rows: of squared residuals (blocks,), of the gradient (blocks*p,)."""

    def finish(self, rows: int, squares: float, gradient: NDArray[np.float64] | None, g: Any | None) -> float:
        """Writes the gradient to g, unless that is None, from its sums over ``rows``; returns the loss."""


class HostBackend(Backend, Protocol):
    """The module of "cpu" or "reference": what nothing asks of a GPU."""

    Mse: type[HostMse]

    # ---- sums of parts, which workers exchange ----
    #
    # canonical_sum is pair_sums of block_sums, global_norm is norm_of the arrays' sums of squares.

    def pair_sums(self, sums: Any, outer: int, blocks: int, inner: int) -> Any:
        """The totals of float64 block sums seen as (outer, blocks, inner): outer*inner numbers, float64."""

    def norm_of(self, sums: Any, scale: float) -> float:
        """|scale| times the root of the total of ``sums``, shape (n,), float64; 0 of none."""

    def clipped_scale(self, scale: float, norm: float, clip_norm: float) -> float:
        """scale*(clip_norm/norm) where ``norm``, that of gradients times ``scale``, is above, else scale."""

    # ---- batch norm of a batch whose samples are spread over workers ----
    #
    # Arrays as for batchnorm_forward; x is this worker's part, ``values`` are M, those of each channel in the
    # whole batch. sums are float64: (2, blocks, C) with channels_last, else (C, 2, blocks), S1 before S2.

    def batchnorm_forward_blocks(
        self,
        x: Any,
        shift: Any,
        sums: Any,
        sizes: Sizes,
        channels_last: bool,
        first: int,
    ) -> None:
        """Writes to ``sums`` those of d and d*d over as many blocks of x as it has room for.

        Args:
            shift: x_0 of the batch, (C,).
            first: how many terms of each channel lie before the first block.
        """

    def batchnorm_forward_apply(
        self,
        x: Any,
        shift: Any,
        gamma: Any,
        beta: Any,
        sums: Any,
        out: Any,
        mean: Any,
        inv: Any,
        mean64: Any,
        var64: Any,
        sizes: Sizes,
        channels_last: bool,
        relu: bool,
        eps: float,
        values: int,
    ) -> None:
        """batchnorm_forward of a part, with the sums over all blocks of the batch, as of one block."""

    def batchnorm_backward_blocks(
        self,
        dy: Any,
        x: Any,
        gamma: Any,
        beta: Any,
        mean: Any,
        inv: Any,
        sums: Any,
        sizes: Sizes,
        channels_last: bool,
        relu: bool,
        first: int,
    ) -> None:
        """Writes to ``sums`` those of dy and dy*(x - mean) over as many blocks as it has room for."""

    def batchnorm_backward_apply(
        self,
        dy: Any,
        x: Any,
        gamma: Any,
        beta: Any,
        mean: Any,
        inv: Any,
        sums: Any,
        out: Any,
        dgamma: Any,
        dbeta: Any,
        sizes: Sizes,
        channels_last: bool,
        relu: bool,
        values: int,
    ) -> None:
        """batchnorm_backward of a part, with the sums over all blocks of the batch, as of one block."""
