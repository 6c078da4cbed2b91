"""Times samestep.jax's Adam beside optax's: each in one jax.jit, whose parameters and state are donated.

    python bench/bench_jax.py [--case NAME] [--threads N] [--seconds S] [--rounds N] [--json] [--quick]

Both take turns in one process: hot, and right after 8 MB of NumPy's work. A call returns when its results
are there. "step" is samestep's own, which writes the parameters, "update" is optax's way, by what is to be
added, and "loop" makes 1000 steps in one program, by lax.fori_loop: without what JAX does for each call. The
other contender always goes optax's way. XLA uses all processors, whatever --threads says.
--case chooses the cases that have NAME in their names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import samestep.jax
from samestep.commands.bench.compare import compare
from samestep.commands.bench.situations import HOT, after_numpy
from table import Table, parse, parser_of

LOOPS = 1000
LARGE, SMALL = (1, 16_777_216), (300, 64)  # arrays, elements of each
GOALS = {("step", LARGE): 1.5}  # optax's time over ours

Update = Callable[[Any, Any, Any], tuple[Any, Any]]


def added(optimizer: optax.GradientTransformation) -> Update:
    """optax's way: what is to be added, and the sum."""

    def update(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return update


def looped(update: Update) -> Update:
    def run(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        return jax.lax.fori_loop(0, LOOPS, lambda _, kept: update(*kept, grads), (params, state))

    return run


def call_of(
    update: Update, optimizer: optax.GradientTransformation, size: tuple[int, int]
) -> Callable[[], None]:
    """One compiled call, which updates arrays that it keeps."""
    n, elements = size
    grads = [jnp.linspace(-1.0, 1.0, elements) for _ in range(n)]
    params = [jnp.linspace(1.0, 2.0, elements) for _ in range(n)]
    kept = [params, optimizer.init(params)]
    compiled = jax.jit(update, donate_argnums=(0, 1))

    def call() -> None:
        kept[:] = jax.block_until_ready(compiled(*kept, grads))

    return call


def calls_of(way: str, size: tuple[int, int]) -> dict[str, Callable[[], None]]:
    ours, theirs = samestep.jax.adam(), optax.adam(1e-3)
    own = added(ours) if way == "update" else lambda params, state, grads: ours.step(grads, params, state)
    other = added(theirs)
    if way == "loop":
        own, other = looped(own), looped(other)
    return {"samestep": call_of(own, ours, size), "optax": call_of(other, theirs, size)}


def main() -> None:
    parser = parser_of(__doc__, seconds=10.0)
    parser.add_argument("--case", default="")
    options = parse(parser)
    large, small = ((1, 4096), (3, 64)) if options.quick else (LARGE, SMALL)
    cases = {
        f"Adam {way} {size[0]} x {size[1]}": (way, size)
        for way, size in (
            ("step", large),
            ("update", large),
            ("step", small),
            ("update", small),
            ("loop", small),
        )
    }
    table = Table(options)
    for case, (way, size) in cases.items():
        if options.case not in case:
            continue
        for situation in (HOT, after_numpy()):
            how = {"seconds": options.seconds, "rounds": options.rounds}
            table.add(compare(case, calls_of(way, size), {"optax": GOALS.get((way, size))}, situation, **how))
    table.close(jax=jax.__version__, optax=optax.__version__)


if __name__ == "__main__":
    main()
