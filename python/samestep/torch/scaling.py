"""torch's GradScaler and a step on GPUs: which step the device leaves out, and how the host comes to know.

GradScaler finds out on the devices whether a gradient is infinite or NaN: ``found_inf``. It reads that, and
so waits, unless an optimizer supports its scaling. Then it calls ``step`` in any case; ``found_inf``, and the
scale if gradients are still to be divided by it, are attributes of the optimizer: torch/amp/grad_scaler.py.

The kernels look at ``found_inf``. The host counts the step as made, and takes that back if it was not: at the
next step, or when somebody asks for the state. What it then waits for is a copy of one number, which was
asked for before that step's launches.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .gpu import GpuPlan, GpuSteps, StepTensors
from .launching import Later
from .tensors import gpu_of


def supports_scaling(optimizer: Any) -> bool:
    """Whether GradScaler is to leave it to the step, as it does with torch's ``fused=True``.

    The host decides for parameters in main memory. FSDP1's ShardedGradScaler asks the other workers for what
    they have found in its ``unscale_`` alone, which GradScaler calls where this is false.
    """
    return all(
        group.get("fused")
        and all(gpu_of(p) is not None and not hasattr(p, "_fsdp_flattened") for p in group["params"])
        for group in optimizer.param_groups
    )


class Scaling(NamedTuple):
    """What GradScaler asks of a step on GPUs.

    Attributes:
        found_inf: on a GPU; not 0: the step is to be left out.
        grad_scale: by which the gradients are to be divided; None: that has been done.
    """

    found_inf: Tensor
    grad_scale: Tensor | None

    @classmethod
    def of(cls, optimizer: Any) -> Scaling | None:
        """By the optimizer's attributes; None: there is no gradient."""
        found_inf = optimizer.found_inf
        if not isinstance(found_inf, Tensor):  # the sum of nothing
            if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
                raise RuntimeError(
                    "found_inf: GradScaler looked before there were gradients, which a hook of step() has "
                    "brought; bring them before scaler.step(), with samestep.torch.parallel by reduce()"
                )
            return None
        if gpu_of(found_inf) is None:
            raise RuntimeError(
                f"found_inf: got a tensor on {found_inf.device}, expected one on a GPU: in main memory "
                "GradScaler does not wait for what it adds up; scale a loss that lies on a GPU, or leave out "
                "fused=True"
            )
        return cls(found_inf, getattr(optimizer, "grad_scale", None))

    def unscale(self, optimizer: Any, on_gpus: GpuSteps, found: list[StepTensors]) -> None:
        """Divides the gradients, with the bits of ``GradScaler.unscale_``, unless it has been called."""
        if self.grad_scale is None:
            return
        if any(grad is not None and grad.dtype == torch.float16 for one in found for grad in one.given):
            raise ValueError("Attempting to unscale FP16 gradients.")  # as unscale_ says it
        optimizer._is_half_stepped = True  # no other step may divide them again
        on_gpus.unscale(found, self.grad_scale)


class OpenStep(NamedTuple):
    """A step that the host has counted, and the device may have left out.

    Attributes:
        found_inf: whether it was left out.
        counted: the plans that were launched, and the counts of their steps.
    """

    found_inf: Later
    counted: list[tuple[GpuPlan, list[Tensor]]]

    def settle(self) -> None:
        """Waits for what came of it, and corrects the counts."""
        if self.found_inf.get():
            for plan, counts in self.counted:
                plan.take_back(counts)


_SETTLING = threading.RLock()  # an interrupt may have kept the thread that has it from giving it back


def settle(attributes: dict[str, Any]) -> None:
    """Settles an optimizer's open step once, whichever thread comes first; another one waits for that."""
    with _SETTLING:
        open_step: OpenStep | None = attributes.get("_open_step")
        if open_step is not None:
            open_step.settle()
            attributes.pop("_open_step", None)
