"""The package's functions as operators of torch, ``torch.ops.samestep.*``, for compilers and transforms.

Each operator has a kernel for the CPU and one for NVIDIA GPUs, an implementation on shapes alone (fake and
meta tensors) and a vmap rule. A derivative is made of operators, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("samestep", "DEF")
# No graph of CUDA's can hold them, as launching.py says; older versions of torch have no tag for that.
_TAGS = [torch.Tag.pt2_compliant_tag]
if hasattr(torch.Tag, "cudagraph_unsafe"):
    _TAGS.append(torch.Tag.cudagraph_unsafe)
_FUNCTIONS: dict[str, Any] = {}  # as autograd functions: torch.func takes no operator's register_autograd


def register(
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    vmap: Callable[..., Any],
    save: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> None:
    """Makes the operator of this schema.

    Args:
        schema: in torch's notation.
        kernel: computes it, on the CPU or a GPU.
        fake: makes tensors of the results' shapes, types and layouts.
        vmap: torch.library.register_vmap's rule.
        save, backward: an autograd function's setup_context and backward; None: without a derivative.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=_TAGS)
    for device in ("CPU", "CUDA"):
        _LIBRARY.impl(name, kernel, device)
    torch.library.register_fake(f"samestep::{name}", fake, lib=_LIBRARY)
    torch.library.register_vmap(f"samestep::{name}", vmap, lib=_LIBRARY)
    if backward is None:
        return
    torch.library.register_autograd(f"samestep::{name}", backward, setup_context=save, lib=_LIBRARY)
    members = {
        "forward": getattr(torch.ops.samestep, name),
        "setup_context": save,
        "backward": backward,
        "vmap": vmap,
    }
    _FUNCTIONS[name] = type(
        name, (torch.autograd.Function,), {key: staticmethod(member) for key, member in members.items()}
    )


def call(name: str, *args: Any) -> Any:
    """The operator of this name, under the transforms of torch.func as well."""
    if (
        not torch.compiler.is_compiling()
        and torch._C._are_functorch_transforms_active()
        and name in _FUNCTIONS
    ):
        return _FUNCTIONS[name].apply(*args)
    return getattr(torch.ops.samestep, name)(*args)


def needed(ctx: Any, inputs: tuple[Tensor | None, ...], grads: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients that somebody asked for, in the types of the inputs."""
    return [
        grad.to(tensor.dtype) if tensor is not None and wanted else None
        for tensor, grad, wanted in zip(inputs, grads, ctx.needs_input_grad, strict=False)
    ]


def each(name: str) -> Callable[..., Any]:
    """The vmap rule of one call for each element."""

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        found = [
            call(
                name,
                *(
                    value.select(dim, i) if isinstance(dim, int) else value
                    for value, dim in zip(args, in_dims, strict=True)
                ),
            )
            for i in range(info.batch_size)
        ]
        if isinstance(found[0], Tensor):
            return torch.stack(found), 0
        stacked = tuple(torch.stack(results) for results in zip(*found, strict=True))
        return stacked, (0,) * len(stacked)

    return rule
