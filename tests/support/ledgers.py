"""Small runs of Adam with their ledgers, into which a test puts differences."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

import samestep as ss
from samestep.ledger import Header, Ledger

SHAPES = {"wte": (5, 3), "h.weight": (3, 4), "h.bias": (4,)}
NAMES = list(SHAPES)
GROUPS = {"wte": 0, "h.weight": 0, "h.bias": 1}


class Run:
    """A run whose gradients are those of every other one, until a test changes something.

    Attributes:
        step: that is being made; 0 before the first.
        grads: of this step, by name; None where a tensor has no gradient.
        lr: of each group.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.rng = rng
        self.step = 0
        self.w = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
        self.opt = {name: ss.Adam(w, lr=0.01) for name, w in self.w.items()}
        self.lr = [0.01, 0.02]
        self.scale = 1.0
        self.extras: dict[str, float] = {}
        self.grads: dict[str, np.ndarray | None] = {}

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The parameter and the states of a tensor."""
        states = self.opt[name].state
        return {"parameter": self.w[name], "m": states["m"][0], "v": states["v"][0]}

    def draw(self) -> None:
        """The gradients of the next step."""
        self.step += 1
        self.grads = {
            name: self.rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()
        }
        self.extras = {"loss": 1.0 / self.step}

    def make(self) -> None:
        for name, grad in self.grads.items():
            if grad is not None:
                self.opt[name].lr = self.lr[GROUPS[name]]
                self.opt[name].step(grad)


def flip(x: np.ndarray, bit: int = 0) -> None:
    """Flips a bit of the first element, in place."""
    x.view(np.uint32).flat[0] ^= np.uint32(1 << bit)


def nothing(run: Run) -> None:
    pass


def write_run(
    path: Path,
    *,
    steps: int = 6,
    first: int = 0,
    every: int = 1,
    kinds: tuple[str, ...] = ("gradient", "parameter", "m", "v"),
    names: list[str] = NAMES,
    begin: Callable[[Run], None] = nothing,
    before: Callable[[Run], None] = nothing,
    after: Callable[[Run], None] = nothing,
    extras: bool = True,
    header: dict | None = None,
    **options,
) -> Path:
    """Makes a run and writes its ledger.

    Args:
        first: the step after which recording begins.
        every: steps between records.
        kinds, names: what is recorded, in this order.
        begin: called before the first step.
        before, after: called before and after each step is made.
        extras: whether the loss is noted.
        header: what the header says otherwise.
        options: of the ledger.
    """
    facts = {
        "contract": 2,
        "rule": "adam_outside",
        "options": {},
        "every": every,
        "kinds": kinds,
        "tensors": {
            name: {"dtype": "float32", "shape": list(SHAPES[name]), "group": GROUPS[name]} for name in names
        },
    }
    run = Run()
    begin(run)

    def fingerprints() -> np.ndarray:
        rows = np.zeros((len(names), len(kinds)), np.uint64)
        for row, name in zip(rows, names, strict=True):
            arrays = {"gradient": run.grads.get(name), **run.arrays(name)}
            row[:] = [0 if arrays[kind] is None else ss.fingerprint(arrays[kind]) for kind in kinds]
        return rows

    with Ledger(path, Header(**{**facts, **(header or {})}), **options) as ledger:
        if first == 0:
            ledger.start(0, fingerprints())
        for _ in range(steps):
            run.draw()
            before(run)
            run.make()
            after(run)
            if run.step == first:
                ledger.start(first, fingerprints())
            elif run.step > first and run.step % every == 0:
                if extras:
                    ledger.note(**run.extras)
                hyper = [{"lr": lr, "beta1": 0.9} for lr in run.lr]
                stepped = [run.grads[name] is not None for name in names]
                ledger.add(run.step, fingerprints(), hyper, scale=run.scale, stepped=stepped)
    return path


def at(step: int, change: Callable[[Run], None]) -> Callable[[Run], None]:
    """The change, at one step."""
    return lambda run: change(run) if run.step == step else None
