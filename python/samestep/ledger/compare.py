"""Where two runs part: the first step at which their ledgers differ, and what came first in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..arguments import whole_number
from .records import GRADIENT, PARAMETER, Path, Record, Records, read_ledger

STEPPED = "stepped"  # the kind of a tensor that one run stepped and the other did not, for want of a gradient
MADE_LAST = (PARAMETER, "ema", "copy")  # a step makes its states, then the parameter, then what is made of it


class NotComparableError(ValueError):
    """Two ledgers have nothing in common that could be compared; the message says what they lack."""


@dataclass(frozen=True)
class Difference:
    """The first step at which two ledgers differ, and what came first in it.

    Attributes:
        step: of the two records.
        after: the last step before it that both recorded; they agree there. None: there is none. Where it is
            not the step just before, the runs may have parted at any step between.
        what: what came first, in the order in which a step goes on:

            - "start": other values to begin with;
            - "extra": what was noted besides, such as the loss, which comes before the gradient;
            - "gradient": a gradient as handed in;
            - "stepped": one run had a gradient for the tensor, the other had none;
            - "scale", "hyper": a setting of the step;
            - "update": what the step made of equal gradients and settings.
        name: of the first tensor in the order of the optimizer that differs so, of the extra or of the
            hyper-parameter.
        kind: of the fingerprint: "gradient", "parameter", or the name of a state; "" where it is none.
        group: of the hyper-parameter.
        values: of A and B: fingerprints, numbers, for "stepped" whether it was.
        lines: of A and B, where the two records stand.
        counts: of all tensors at this step, how many differ, by kind.
    """

    step: int
    after: int | None
    what: str
    name: str
    kind: str
    group: int | None
    values: tuple[Any, Any]
    lines: tuple[int, int]
    counts: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self._when}: {self._told} differs"

    @property
    def _when(self) -> str:
        if self.after == self.step - 1 or (self.after is None and self.what == "start"):
            return f"step {self.step}"
        return (
            f"step {self.step} or before"
            if self.after is None
            else f"between step {self.after} and {self.step}"
        )

    @property
    def _told(self) -> str:
        match self.what:
            case "start":
                return f"the {self.kind} of {self.name} that it starts from"
            case "stepped":
                return f"whether {self.name} has a gradient"
            case "extra":
                return self.name
            case "scale":
                return "the scale of the gradients"
            case "hyper":
                return f"{self.name} of group {self.group}"
            case _:
                return f"the {self.kind} of {self.name}"


@dataclass(frozen=True)
class Shared:
    """What two ledgers both have, and how to compare it.

    Attributes:
        tensors: in the order of A.
        kinds: each with its places in an entry of A and in one of B.
        groups: of the hyper-parameters of these tensors, in A and in B.
    """

    tensors: tuple[str, ...]
    kinds: tuple[tuple[str, int, int], ...]
    groups: tuple[tuple[int, int], ...]

    def parted(self, a: Record, b: Record) -> dict[str, tuple[str, ...]]:
        """The tensors that differ, in order, each with the kinds in which it does."""
        found: dict[str, tuple[str, ...]] = {}
        for name in self.tensors:
            x, y = a.tensors[name], b.tensors[name]
            if x is None or y is None:
                if x is not y and not a.is_start and not b.is_start:
                    found[name] = (STEPPED,)
            elif x != y:
                known = (kind for kind in self.kinds if x[kind[1]] is not None and y[kind[2]] is not None)
                kinds = tuple(kind for kind, i, j in known if x[i] != y[j])
                if kinds:
                    found[name] = kinds
        return found

    def hyper(self, a: Record, b: Record) -> tuple[int, str, Any, Any] | None:
        """The first hyper-parameter that differs: its group in A, its name, both values."""
        for i, j in self.groups:
            x, y = a.hyper[i], b.hyper[j]
            for name, value in x.items():
                if name in y and value != y[name]:
                    return i, name, value, y[name]
        return None


@dataclass(frozen=True)
class Diff:
    """Two ledgers, compared as far as both go.

    Attributes:
        a, b: the ledgers.
        shared: what both have.
        steps: that both recorded.
        options: those of the optimizers that differ, with both values; None: as by default.
        left_out: what was not compared, since one of the two lacks it: a sentence each.
        first: where they part; None: they are equal.
    """

    a: Records
    b: Records
    shared: Shared
    steps: tuple[int, ...]
    options: Mapping[str, tuple[Any, Any]]
    left_out: tuple[str, ...]
    first: Difference | None

    @property
    def is_equal(self) -> bool:
        """Whether nothing that both recorded differs."""
        return self.first is None

    def pairs(self) -> Iterator[tuple[Record, Record]]:
        """The records of A and B of every step that both have."""
        a, b = self.a.by_step(), self.b.by_step()
        for step in self.steps:
            yield a[step], b[step]


def diff(a: Records | Path, b: Records | Path) -> Diff:
    """Compares two ledgers, step by step, as far as both go.

    Ledgers with another ``every``, other kinds, tensors or options are compared in what both have.

    Args:
        a, b: ledgers that were read, or their paths.

    Raises:
        NotComparableError: they record another contract or rule, or have no tensor, kind or step in common.
        LedgerError: a file is not as it was written.
        OSError: a file cannot be read.

    Example:
        >>> import numpy as np, samestep as ss, tempfile, os
        >>> header = ss.ledger.Header(
        ...     contract=2, rule="sgd", options={}, every=1, kinds=("gradient", "parameter"),
        ...     tensors={"w": {"dtype": "float32", "shape": [2], "group": 0}},
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = [os.path.join(folder, name) for name in ("a.jsonl", "b.jsonl")]
        ...     for path, lr in zip(paths, (0.5, 0.25)):
        ...         with ss.ledger.Ledger(path, header) as ledger:
        ...             ledger.start(0, np.array([[0, 1]], np.uint64))
        ...             ledger.add(1, np.array([[2, 3]], np.uint64), [{"lr": lr}])
        ...     found = ss.ledger.diff(*paths)
        >>> print(found.first)
        step 1: lr of group 0 differs
        >>> found.first.values
        (0.5, 0.25)
    """
    a, b = (side if isinstance(side, Records) else read_ledger(side) for side in (a, b))
    for what in ("contract", "rule"):
        values = [getattr(side.header, what) for side in (a, b)]
        if values[0] != values[1]:
            raise NotComparableError(f"{what}: A has {values[0]} and B has {values[1]}")
    left_out: list[str] = []
    shared = _shared(a, b, left_out)
    of_a, of_b = a.by_step(), b.by_step()
    steps = tuple(sorted(of_a.keys() & of_b.keys()))
    if not steps:
        raise NotComparableError(
            f"steps: A has {_range(of_a)} and B has {_range(of_b)}, and no step is in both"
        )
    if all(of_a[step].is_start for step in steps) and len(of_a) > len(steps) < len(of_b):
        raise NotComparableError(
            f"steps: A has {_range(of_a)} and B has {_range(of_b)}, and both have no step but the start"
        )
    for side, own in (("A", of_a), ("B", of_b)):
        if rest := sorted(own.keys() - {*steps}):
            left_out.append(f"{_counted(len(rest), 'step')} of {side}, {_range(rest)}")
    left_out += _names_in_one(a, b)
    options = {
        name: (a.header.options.get(name), b.header.options.get(name))
        for name in {**a.header.options, **b.header.options}
        if a.header.options.get(name) != b.header.options.get(name)
    }
    first = _first(shared, ((of_a[step], of_b[step]) for step in steps))
    return Diff(a, b, shared, steps, options, tuple(left_out), first)


def first_parted_line(a: Callable[[int], str], b: Callable[[int], str], lines: int) -> int | None:
    """The first line in which two ledgers differ, by asking for about log2 of their lines' sha256.

    Every line names the one before it. So if two lines k are equal, all lines before them are, and if they
    differ, all after them do. Whoever answers for a ledger need not hand it over.

    Args:
        a, b: given the number of a line, from 1 on, the sha256 of that line, which the next one names as
            "previous".
        lines: how many both have.

    Returns:
        The number of the line; None: they are equal. Who answers falsely can only lead to a line that does
        not have the sha256 that was claimed for it: ask both for the line found and for the one before it.

    Raises:
        ValueError: there is no line.

    Example:
        >>> from samestep.ledger import first_parted_line
        >>> first_parted_line("abcdefgh".__getitem__, "abcdeXYZ".__getitem__, 7)
        5
    """
    whole_number("lines", lines, at_least=1)
    if a(lines) == b(lines):
        return None
    low, high = 1, lines  # equal before low, not at high
    while low < high:
        middle = (low + high) // 2
        if a(middle) == b(middle):
            low = middle + 1
        else:
            high = middle
    return high


def _shared(a: Records, b: Records, left_out: list[str]) -> Shared:
    """What both headers have; adds to ``left_out`` what only one has."""
    x, y = a.header.tensors, b.header.tensors
    tensors = [
        name for name in x if name in y and all(x[name][of] == y[name][of] for of in ("dtype", "shape"))
    ]
    kinds = [kind for kind in a.header.kinds if kind in b.header.kinds]
    if not tensors:
        raise NotComparableError("tensors: no tensor of A has the name, dtype and shape of one of B")
    for name in {**x, **y}:
        if name not in tensors:
            facts = [
                f"{side[name]['dtype']} {side[name]['shape']}" if name in side else None for side in (x, y)
            ]
            in_one = "A" if facts[1] is None else "B" if facts[0] is None else None
            left_out.append(
                f"{name}, only in {in_one}" if in_one else f"{name}, {facts[0]} in A and {facts[1]} in B"
            )
    for kind in {**dict.fromkeys(a.header.kinds), **dict.fromkeys(b.header.kinds)}:
        if kind not in kinds:
            left_out.append(f"{kind}, only in {'A' if kind in a.header.kinds else 'B'}")
    return Shared(
        tuple(tensors),
        tuple((kind, a.header.kinds.index(kind), b.header.kinds.index(kind)) for kind in kinds),
        tuple(dict.fromkeys((x[name]["group"], y[name]["group"]) for name in tensors)),
    )


def _names_in_one(a: Records, b: Records) -> Iterator[str]:
    """Extras and hyper-parameters that only one of the two ledgers has."""
    for what in ("extras", "hyper"):
        names = []
        for side in (a, b):
            records = (getattr(record, what) for record in side.records)
            groups = (group for record in records for group in (record if what == "hyper" else (record,)))
            names.append(dict.fromkeys(name for group in groups for name in group))
        for side_name, own, other in (("A", names[0], names[1]), ("B", names[1], names[0])):
            yield from (f"{name}, only in {side_name}" for name in own if name not in other)


def _first(shared: Shared, pairs: Iterable[tuple[Record, Record]]) -> Difference | None:
    after = None
    for a, b in pairs:
        parted = shared.parted(a, b)
        if first := _first_in(shared, a, b, parted):
            counts = Counter(kind for kinds in parted.values() for kind in kinds)
            return Difference(a.step, after, *first, (a.line, b.line), counts)
        after = a.step
    return None


class _Found(NamedTuple):
    """What came first, as Difference has it."""

    what: str
    name: str
    kind: str
    group: int | None
    values: tuple[Any, Any]


def _first_in(shared: Shared, a: Record, b: Record, parted: Mapping[str, tuple[str, ...]]) -> _Found | None:
    """What came first in a step."""
    names = [kind for kind, _, _ in shared.kinds]
    in_order = (
        *(kind for kind in names if kind not in (GRADIENT, *MADE_LAST)),
        *(kind for kind in MADE_LAST if kind in names),
    )
    if a.is_start or b.is_start:
        return _first_of_tensors("start", (PARAMETER, *in_order), shared, a, b, parted)
    for name, value in a.extras.items():
        if b.extras.get(name, value) != value:
            return _Found("extra", name, "", None, (value, b.extras[name]))
    if gradient := _first_of_tensors("gradient", (GRADIENT, STEPPED), shared, a, b, parted):
        return gradient
    if a.scale != b.scale:
        return _Found("scale", "scale", "", None, (a.scale, b.scale))
    if setting := shared.hyper(a, b):
        group, name, x, y = setting
        return _Found("hyper", name, "", group, (x, y))
    return _first_of_tensors("update", in_order, shared, a, b, parted)


def _first_of_tensors(
    what: str,
    kinds: tuple[str, ...],
    shared: Shared,
    a: Record,
    b: Record,
    parted: Mapping[str, tuple[str, ...]],
) -> _Found | None:
    """The first tensor that differs in one of these kinds, and the first of them in which it does."""
    places = {kind: (i, j) for kind, i, j in shared.kinds}
    for name, own in parted.items():
        for kind in kinds:
            if kind not in own:
                continue
            x, y = a.tensors[name], b.tensors[name]
            if x is None or y is None:
                return _Found(STEPPED, name, "", None, (x is not None, y is not None))
            i, j = places[kind]
            return _Found(what, name, kind, None, (x[i], y[j]))
    return None


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _range(steps: Any) -> str:
    first, last = min(steps, default=None), max(steps, default=None)
    return "none" if first is None else f"{first}" if first == last else f"{first} to {last}"
