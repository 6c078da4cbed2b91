"""Measures each case in each situation; a row has times, the best peer, GB/s and the share of the roof."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...backends import cpu
from .cases import RULES, Shapes, elements
from .compare import OURS, ROOF, fastest
from .peers import STATES, steps_of
from .ratios import Ratio, times_faster
from .roof import Roof, roof_of
from .situations import HOT, after_numpy
from .turns import ROUNDS, Sample


@dataclass(frozen=True)
class Row:
    """One rule on one list of arrays with one number of threads in one situation."""

    rule: str
    case: str
    tensors: int
    elements: int
    threads: int
    situation: str
    just_before: str  # what ran just before each timed step
    samples: dict[str, Sample]  # by contender; the roof moves the same arrays and next to nothing else
    nbytes: int = field(repr=False)

    @property
    def best_peer(self) -> str | None:
        """By the median."""
        return fastest({name: s for name, s in self.samples.items() if name not in (OURS, ROOF)})

    @property
    def ratio(self) -> Ratio | None:
        """The best peer's time over ours."""
        return None if self.best_peer is None else self._times_faster_than(self.best_peer)

    @property
    def gb_per_s(self) -> float:
        """By the median."""
        return self.nbytes / self.samples[OURS].median / 1e9

    @property
    def share_of_roof(self) -> Ratio:
        """The roof's time over ours."""
        return self._times_faster_than(ROOF)

    def as_dict(self) -> dict[str, Any]:
        names = ("rule", "case", "tensors", "elements", "threads", "situation", "just_before", "nbytes")
        return {
            **{name: getattr(self, name) for name in names},
            "rounds": len(self.samples[OURS].seconds),
            "times": {name: sample.summary() for name, sample in self.samples.items()},
            "best_peer": self.best_peer,
            "ratio": self.ratio and self.ratio.as_dict(),
            "gb_per_s": self.gb_per_s,
            "share_of_roof": self.share_of_roof.as_dict(),
        }

    def _times_faster_than(self, name: str) -> Ratio:
        return times_faster(self.samples[OURS], self.samples[name])


def measure(
    rule: str,
    case: str,
    shapes: Shapes,
    *,
    threads: int,
    peers: tuple[str, ...],
    seconds: float,
    rounds: int = ROUNDS,
) -> list[Row]:
    """Times one rule on arrays of these shapes, float32: hot, and right after 8 MB of other work.

    Args:
        rule: a name from ``cases.RULES``.
        case: the name of the list of shapes.
        shapes: the shapes of the parameters.
        threads: the number of threads of each contender.
        peers: names from ``peers.PEERS``.
        seconds: the time for all contenders together, in each situation.
        rounds: the fewest.

    Returns:
        A row for each situation.

    Example:
        >>> from samestep.commands.bench.run import measure
        >>> shapes = [(3,), (4, 5)]
        >>> rows = measure("SGD", "two", shapes, threads=1, peers=("numpy",), seconds=0, rounds=3)
        >>> [(row.situation, row.elements, row.best_peer, row.nbytes) for row in rows]
        [('hot', 23, 'numpy', 276), ('in use', 23, 'numpy', 276)]
    """
    before = cpu.get_num_threads()
    cpu.set_num_threads(threads)
    try:
        contenders, roof = contenders_of(rule, shapes, peers, threads)
        samples = {
            situation: situation.sample(contenders, seconds, rounds, roof)
            for situation in (HOT, after_numpy())
        }
    finally:
        cpu.set_num_threads(before)
    return [
        Row(
            rule=rule,
            case=case,
            tensors=len(shapes),
            elements=elements(shapes),
            threads=threads,
            situation=situation.name,
            just_before=situation.just_before,
            samples=times,
            nbytes=4 * (3 + 2 * STATES[rule]) * elements(shapes),
        )
        for situation, times in samples.items()
    ]


def contenders_of(
    rule: str, shapes: Shapes, peers: tuple[str, ...], threads: int
) -> tuple[dict[str, Callable[[], Any]], Roof]:
    """The same step by samestep and by the peers, and the roof of samestep's arrays."""
    rng = np.random.default_rng(0)
    params, grads = ([rng.standard_normal(s, dtype=np.float32) for s in shapes] for _ in range(2))
    own = [w.copy() for w in params]
    optimizer = RULES[rule](own)
    others = steps_of(peers, rule, params, grads, threads)
    roof = roof_of(grads, own, list(optimizer.state.values()), threads)
    return {OURS: lambda: optimizer.step(grads), **others}, roof


def measure_all(
    rules: Iterable[str],
    cases: dict[str, Shapes],
    *,
    threads: Iterable[int],
    peers: tuple[str, ...],
    seconds: float,
    rounds: int,
    announce: Callable[[Row], None],
) -> list[Row]:
    """Every rule on every case with every number of threads; ``announce`` is called with each new row."""
    rows: list[Row] = []
    for n in threads:
        for case, shapes in cases.items():
            for rule in rules:
                new = measure(rule, case, shapes, threads=n, peers=peers, seconds=seconds, rounds=rounds)
                for row in new:
                    announce(row)
                rows += new
    return rows
