"""Calls of XLA that run samestep's kernels: those of csrc/jax/, registered by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core
from .numbers import Resolved
from .packages import jax


def register() -> None:
    """Tells XLA what it may call.

    Raises:
        ImportError: this build of samestep has nothing for it, or jaxlib refuses it.
    """
    calls = _core.xla_calls()
    if not calls:
        raise ImportError(
            "samestep.jax: this samestep was compiled without the headers of jaxlib; install a wheel, or "
            "compile it again, in a checkout, with: SAMESTEP_JAX=1 pip install '.[jax]'"
        )
    try:
        for name, handler in calls.items():
            jax.ffi.register_ffi_target(name, handler, platform="cpu")
    except Exception as error:
        raise ImportError(
            f"samestep.jax: jax {jax.__version__} does not take what this samestep was compiled with for it "
            f"({error}); install a samestep and a jax of about the same age"
        ) from error


def call(name: str, results: list[Any], aliases: dict[int, int], *operands: Any, **attributes: Any) -> Any:
    """One of ``csrc/jax/``; under ``vmap``, one call after the other.

    Args:
        results: their shapes.
        aliases: by the number of an operand, that of the result in whose memory it lies.
    """
    made = jax.ffi.ffi_call(name, results, vmap_method="sequential", input_output_aliases=aliases)
    return made(*operands, **attributes)


def step_arrays(
    found: Resolved, count: Any, written: Sequence[Sequence[Any]], grads: Sequence[Any]
) -> tuple[Any, list[list[Any]]]:
    """One step of all arrays, in the memory of ``count`` and ``written`` where nothing else needs it.

    Args:
        written: the parameters, then each state.
        grads: one for each parameter.

    Returns:
        The count and what is written, after the step.
    """
    given = [name for name, number in found.numbers.items() if isinstance(number, jax.Array)]
    flat = [array for kind in written for array in kind]
    first = 1 + len(given)
    names, options = list(found.numbers), found.options
    seed = options.stochastic_rounding
    numbers = [0.0 if name in given else number for name, number in found.numbers.items()]
    count, *flat = call(
        "samestep_step",
        [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=jax.typeof(a).sharding) for a in (count, *flat)],
        {0: 0, **{first + i: 1 + i for i in range(len(flat))}},
        count,
        *(found.numbers[name] for name in given),
        *flat,
        *grads,
        rule=found.rule,
        numbers=np.array(numbers, np.float64),
        given=np.array([names.index(name) for name in given], np.int64),
        bounds=np.array([bound for name in given for bound in found.bounds[name]], np.float64),
        names=" ".join(given),
        decoupled_weight_decay=options.decoupled_weight_decay,
        maximize=options.maximize,
        flush_subnormals=options.flush_subnormals,
        skips_nonfinite=options.nonfinite == "skip",
        has_ema=options.ema is not None,
        has_master=options.master is not None,
        stores_states=options.state_dtype == "param",
        rounds_at_random=seed is not None,
        seed=np.uint64(seed or 0).astype(np.int64),
    )
    n = len(grads)
    return count, [flat[k * n : (k + 1) * n] for k in range(len(written))]


register()
