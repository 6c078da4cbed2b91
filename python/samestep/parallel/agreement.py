"""What all workers agree on before a step: the weights of all leaves, and what any of them has."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..backends.arrays import Array
from .groups import Group

_GIVES_UP = -1  # in the place of a checksum, which is 0 or more


def agree(
    group: Group,
    ranges: Sequence[range],
    weights: Mapping[int, float],
    flags: NDArray[np.bool_],
    hyper: bytes,
    error: Exception | None = None,
) -> tuple[Array, NDArray[np.bool_]]:
    """The weights of all leaves, in order, and which flags are set on any worker; the same on every worker.

    Args:
        ranges: the leaves of each worker.
        weights: of this worker's leaves, by number.
        flags: as many on every worker.
        hyper: what has to be the same on all: hyper-parameters and the like.
        error: why this worker gives up.

    Raises:
        ValueError: ``hyper`` differs, or leaves are missing; raised on all workers.
        Exception: ``error``, as ``Group.all_or_none`` raises it.
    """
    mine = np.array([weights.get(leaf, np.nan) for leaf in ranges[group.rank]])
    facts = (mine, flags, np.array([_GIVES_UP if error else zlib.crc32(hyper)], np.int64))
    sizes = [8 * len(own) + flags.size + 8 for own in ranges]
    found = group.all_gather(np.concatenate([a.view(np.uint8) for a in facts]), sizes)
    told = {int(one[-8:].view(np.int64)[0]) for one in found}
    if _GIVES_UP in told:
        group.all_or_none(error)
    if len(told) > 1:
        raise ValueError(
            "hyper-parameters, t or scale: got others on other workers, expected the same on all; of several "
            "optimizers all workers step the same one, and all record the same steps"
        )
    everyone = np.concatenate([one[: -8 - flags.size] for one in found]).view(np.float64)
    missing = np.flatnonzero(np.isnan(everyone))
    if missing.size:
        raise ValueError(
            f"leaves: {', '.join(map(str, missing[:8]))}{', ...' if missing.size > 8 else ''} of "
            f"{everyone.size} were not added; expected each once a step, if need be with weight=0"
        )
    return everyone, np.any([one[-8 - flags.size : -8].view(bool) for one in found], axis=0)
