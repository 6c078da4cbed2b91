"""Measures each case and makes a row of it: times, the best peer, GB/s, the share of the roof."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ...backends import cpu
from ...backends.arrays import Array
from ...backends.face import Tensor
from .cases import LR, RULES, Shapes, elements
from .peers import STATES, steps_of
from .turns import take_turns

OURS, ROOF = "samestep", "roof"


@dataclass(frozen=True)
class Row:
    """One rule on one list of arrays with one number of threads; times in microseconds a step."""

    rule: str
    case: str
    tensors: int
    elements: int
    threads: int
    us: dict[str, float]  # minimum by contender; the roof moves the same arrays and only adds
    median_us: dict[str, float]
    nbytes: int = field(repr=False)

    @property
    def peers(self) -> dict[str, float]:
        return {name: us for name, us in self.us.items() if name not in (OURS, ROOF)}

    @property
    def best_peer(self) -> str | None:
        return min(self.peers, key=self.peers.__getitem__, default=None)

    @property
    def ratio(self) -> float | None:
        """The best peer's time over ours."""
        return None if self.best_peer is None else self.us[self.best_peer] / self.us[OURS]

    @property
    def gb_per_s(self) -> float:
        return self.nbytes / self.us[OURS] / 1e3

    @property
    def share_of_roof(self) -> float:
        return self.us[ROOF] / self.us[OURS]

    def as_dict(self) -> dict[str, Any]:
        more = ("best_peer", "ratio", "gb_per_s", "share_of_roof")
        return {**asdict(self), **{name: getattr(self, name) for name in more}}


def measure(
    rule: str, case: str, shapes: Shapes, *, threads: int, peers: tuple[str, ...], seconds: float
) -> Row:
    """Times one rule on arrays of these shapes, float32.

    Args:
        rule: a name from ``cases.RULES``.
        case: the name of the list of shapes.
        shapes: the shapes of the parameters.
        threads: the number of threads of each contender.
        peers: names from ``peers.PEERS``.
        seconds: the time for all contenders together.

    Example:
        >>> from samestep.commands.bench.run import measure
        >>> row = measure("SGD", "two", [(3,), (4, 5)], threads=1, peers=("numpy",), seconds=0)
        >>> row.elements, row.best_peer, row.nbytes
        (23, 'numpy', 276)
    """
    before = cpu.get_num_threads()
    cpu.set_num_threads(threads)
    try:
        rng = np.random.default_rng(0)
        params, grads = ([rng.standard_normal(s, dtype=np.float32) for s in shapes] for _ in range(2))
        contenders = {OURS: _step(rule, params, grads), ROOF: _roof(rule, params)}
        contenders |= steps_of(peers, rule, params, grads, threads)
        times = take_turns(contenders, seconds)
    finally:
        cpu.set_num_threads(before)
    return Row(
        rule=rule,
        case=case,
        tensors=len(shapes),
        elements=elements(shapes),
        threads=threads,
        us={name: 1e6 * t.minimum for name, t in times.items()},
        median_us={name: 1e6 * t.median for name, t in times.items()},
        nbytes=4 * (3 + 2 * STATES[rule]) * elements(shapes),
    )


def measure_all(
    rules: Iterable[str],
    cases: dict[str, Shapes],
    *,
    threads: Iterable[int],
    peers: tuple[str, ...],
    seconds: float,
    announce: Callable[[Row], None],
) -> list[Row]:
    """Every rule on every case with every number of threads; ``announce`` is called with each new row."""
    rows = []
    for n in threads:
        for case, shapes in cases.items():
            for rule in rules:
                rows.append(measure(rule, case, shapes, threads=n, peers=peers, seconds=seconds))
                announce(rows[-1])
    return rows


def _step(rule: str, params: list[Array], grads: list[Array]) -> Callable[[], float | None]:
    optimizer = RULES[rule]([w.copy() for w in params])
    return lambda: optimizer.step(grads)


def _roof(rule: str, params: list[Array]) -> Callable[[], int]:
    """A plan whose kernel reads and writes as many arrays, but only adds: the cost of the memory alone."""
    written = [[w.copy() for w in params] for _ in range(1 + STATES[rule])]
    zeros = [np.zeros_like(w) for w in params]
    counts = np.zeros(len(params) + 1, np.int64)
    tensors = [Tensor(w, states) for w, *states in zip(*written, strict=True)]
    plan = cpu.Plan(f"roof_{STATES[rule]}", tensors, counts)
    return lambda: plan.step(zeros, (LR,))
