"""Shows a demo run as text for a terminal or as a figure. It measures nothing."""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from ..optional import require
from ..theory import max_step
from .demo import FLAT, GOAL, SIGNIFICANT, Demo, Run, steep_curvatures
from .digits import BATCH, CLASSES, DIGEST_NOTE, HIDDEN, REQUIRED, DigitsResult
from .digits_torch import LIBRARIES, OURS, THREADS, Comparison
from .table import counted, left_out

COMPARISON_NOTE = (
    "All start from the same weights and take the same batches. torch's own kernels add in an order that "
    "depends on the instruction set and on the number of threads."
)
_WIDTH = 96
_CURVE_COLUMNS = 12
_BARS = "▁▂▃▄▅▆▇█"
_COLORS = ("#868e96", "#1c7ed6", "#2b8a3e", "#f08c00", "#9c36b5", "#e03131")
_IN_ASCII = dict(
    zip(
        "½Φ²βμκ√µ·─∞→←▁▂▃▄▅▆▇█",
        (
            "1/2 ",
            "Phi ",
            "^2",
            "beta",
            "mu",
            "kappa",
            "sqrt ",
            "u",
            "-",
            "-",
            "infinite",
            "->",
            "<-",
            *".:-=+*#@",
        ),
        strict=True,
    )
)


@dataclass(frozen=True)
class Style:
    """What the terminal can show.

    Attributes:
        color: ANSI colours.
        unicode: Greek letters and block characters; without, ASCII stands in for them.
    """

    color: bool = False
    unicode: bool = True

    def letters(self, text: str) -> str:
        """The text in characters that the terminal can show."""
        if self.unicode:
            return text
        text = "".join(_IN_ASCII.get(letter, letter) for letter in text)
        return text.encode("ascii", "replace").decode("ascii")  # the names of a table's columns

    def bold(self, text: str) -> str:
        return f"\033[1m{text}\033[0m" if self.color else text

    def dim(self, text: str) -> str:
        return f"\033[2m{text}\033[0m" if self.color else text

    def lit(self, text: str) -> str:
        return f"\033[1;7;31m{text}\033[0m" if self.color else text

    def verdict(self, passed: bool) -> str:
        word = "PASS" if passed else "FAIL"
        return f"\033[1;{32 if passed else 31}m{word}\033[0m" if self.color else word


def as_text(demo: Demo, style: Style) -> str:
    """The demo for a terminal of 100 columns."""
    parts = (
        [style.bold("samestep · one problem, six optimizers, the same bits everywhere")],
        _problem(demo, style),
        _runs(demo, style),
        _edges(demo, style),
        _bits(demo, style),
    )
    lines = [line for part in parts for line in ("", *part)]
    return style.letters("\n".join(f"  {line}".rstrip() for line in lines)) + "\n"


def digits_as_text(result: DigitsResult, style: Style) -> str:
    """The training of the digits' network for a terminal of 100 columns."""
    low, high = min(result.losses), max(result.losses)
    curve = "".join(_BARS[min(7, int(8 * np.log(loss / low) / np.log(high / low)))] for loss in result.losses)
    rounds = f"{result.losses[0]:.3f} → {result.losses[-1]:.3f} in {len(result.losses)} rounds"
    lines = [
        "",
        style.bold("samestep · batch norm and ReLU in a network that learns to read digits"),
        "",
        f"digits: {result.images:,} images of 8 x 8 pixels to learn from, {result.test_images:,} to test by",
        style.dim(
            f"64 pixels, {HIDDEN} hidden units with batch norm and ReLU, {CLASSES} classes; "
            f"Adam, batches of {BATCH}"
        ),
        "",
        *grid(
            [
                ["loss", rounds, curve],
                ["training images", f"{result.train_accuracy:.2%} told right"],
                [
                    "test images",
                    f"{result.test_accuracy:.2%} told right",
                    f"{REQUIRED:.0%} or more: {style.verdict(result.passed)}",
                ],
                ["training took", f"{result.seconds:.2f} s for {result.steps:,} steps"],
                ["digest", result.digest[:16], "sha256 of the final parameters, first 16 digits"],
            ],
            "<<<",
            style,
        ),
        "",
        *map(style.dim, textwrap.wrap(DIGEST_NOTE, _WIDTH)),
    ]
    return style.letters("\n".join(f"  {line}".rstrip() for line in lines)) + "\n"


def comparison_as_text(comparison: Comparison, style: Style) -> str:
    """The digits' network in several libraries, for a terminal of 100 columns."""
    found = {(run.library, run.isa, run.threads): run.digest for run in comparison.runs}
    rows = list(dict.fromkeys((run.library, run.isa) for run in comparison.runs))
    rows.sort(key=lambda row: LIBRARIES.index(row[0]))
    columns = ["1 thread", *(f"{threads} threads" for threads in THREADS[1:])]
    ours = comparison.digests(*OURS)
    configurations = sum(run.library in OURS for run in comparison.runs)
    lines = [
        "",
        style.bold("samestep · one network in NumPy's arrays, in samestep's modules for torch, in torch"),
        "",
        f"digits: {HIDDEN} hidden units with batch norm and ReLU, Adam, {comparison.epochs} rounds",
        style.dim("digests of the final parameters, sha256, first 16 digits:"),
        "",
        *grid(
            [
                ["library", "instruction set", *columns],
                *([*row, *(found[(*row, threads)][:16] for threads in THREADS)] for row in rows),
            ],
            "<" * (2 + len(THREADS)),
            style,
        ),
        "",
        f"{' and '.join(OURS)}: {counted(len(ours), 'digest')} in {configurations} configurations: "
        f"{style.verdict(comparison.passed)}",
        f"torch: {counted(len(comparison.digests('torch')), 'digest')} in "
        f"{len(comparison.runs) - configurations} configurations",
        "",
        *map(style.dim, textwrap.wrap(COMPARISON_NOTE, _WIDTH)),
    ]
    return style.letters("\n".join(f"  {line}".rstrip() for line in lines)) + "\n"


def _problem(demo: Demo, style: Style) -> list[str]:
    table, problem = demo.table, demo.problem
    first = problem.loss(np.zeros(problem.dimension, problem.dtype))
    notes = []
    notes += left_out(table)
    if problem.mu == 0.0:
        curved = problem.eigenvalues[problem.eigenvalues > 0]
        notes.append(
            f"only {len(curved)} of {problem.dimension} directions have a curvature, the flattest "
            f"{curved[0]:.4g}: the columns depend on each other"
        )
    return [
        f"{table.name}: {counted(problem.size, 'row')}, {counted(problem.dimension, 'column')} "
        f"to predict {table.target}",
        *(style.dim(line) for note in notes for line in textwrap.wrap(note, _WIDTH)),
        style.dim("L(w) = ½|Φw - y|², from w = 0; columns centred and scaled to length 1, y centred"),
        "",
        *grid(
            [
                ["β", "steepest curvature", f"{problem.beta:.6g}", "  L(0)", f"{first:,.2f}"],
                ["μ", "flattest", f"{problem.mu:.6g}", "  L*", f"{problem.optimum:,.2f}"],
                ["κ", "β/μ", f"{problem.kappa:.6g}".replace("inf", "∞")],
                ["2/β", "where steps become too long", f"{max_step(problem):.6g}"],
            ],
            "<<<<>",
            style,
        ),
    ]


def _runs(demo: Demo, style: Style) -> list[str]:
    longest = max(run.steps for run in demo.runs)
    header = [
        "optimizer",
        "form",
        "step size",
        "steps",
        "last gap",
        "µs/step",
        "the way down",
        "digest of w",
        "bits",
    ]
    rows = [
        [
            run.optimizer,
            f"eps {run.form}" if run.form in ("inside", "outside") else run.form or "",
            f"{run.hyper['lr']:.6g}",
            f"{run.steps:,}" if run.reached else f"> {run.steps:,}",
            f"{run.gaps[-1]:.1e}",
            f"{run.microseconds:.1f}",
            _curve(run, longest),
            run.digest[:16],
            "equal" if run.differs_at is None else f"not from step {run.differs_at:,} on",
        ]
        for run in demo.runs
    ]
    head, *body = grid([header, *rows], "<<>>>><<<", style, gap=2)
    rule = "─" * max(map(len, (head, *body)))
    fewest = min((run.steps for run in demo.runs if run.reached), default=-1)
    return [
        style.bold(f"How many steps until the gap is 1/{1 / GOAL:,.0f} of the first?"),
        "",
        head,
        rule,
        *(
            style.bold(line) if run.reached and run.steps == fewest else line
            for run, line in zip(demo.runs, body, strict=True)
        ),
        rule,
        *(style.dim(note) for note in _notes(demo)),
    ]


def _notes(demo: Demo) -> list[str]:
    sources = []
    for source in dict.fromkeys(run.lr_source for run in demo.runs):
        runs = [run for run in demo.runs if run.lr_source == source]
        sources.append(", ".join(map(_with_momentum, runs)) + f" {source}")
    notes = [
        "gap: L(w) - L*, as a share of the first one · µs/step: the update alone, median",
        "the way down: the gap against the steps, both on logarithmic scales",
        *textwrap.wrap("step sizes: " + " · ".join(sources) + _left_out(demo), _WIDTH),
        "digest of w: sha256 of the final weights, its first 16 digits. It is the same on every machine:",
        f"what comes from LAPACK, curvatures and |w*|, sets step sizes rounded to {SIGNIFICANT} digits",
        "bits: whether weights and state equalled the NumPy reference's after every step",
    ]
    if not all(run.reached for run in demo.runs):
        notes.append(f"> : not there after {demo.limit:,} steps, the most for a table of this size")
    return notes


def _left_out(demo: Demo) -> str:
    """A note on the curvatures for which no step size is chosen, and on the μ that is used instead."""
    steep, directions = steep_curvatures(demo.problem), demo.problem.dimension
    if len(steep) == directions:
        return ""
    return (
        f"; curvatures below {FLAT:g} β, {directions - len(steep)} of {directions} here, are left out of "
        f"them: their μ is {steep[0]:.6g}, the flattest of the others"
    )


def _with_momentum(run: Run) -> str:
    if "momentum" not in run.hyper:
        return run.optimizer
    return f"{run.optimizer} (a = {run.hyper['momentum']:.10g})"


def _curve(run: Run, longest: int) -> str:
    """The gap from 1 down to GOAL, at steps 1 to the longest run's last, both logarithmic."""
    steps = np.unique(np.geomspace(1, max(longest, 2), _CURVE_COLUMNS).round().astype(int))
    curve = ""
    for step in steps[steps <= run.steps]:
        share = np.log(max(run.gaps[step], GOAL)) / np.log(GOAL)
        curve += _BARS[min(7, max(0, int(8 * (1 - share))))]
    return curve


def _edges(demo: Demo, style: Style) -> list[str]:
    rows = [
        [
            f"{edge.times_beta}/β = {edge.lr:.6g}",
            f"{edge.steps:,} steps",
            f"then the gap is {edge.gap:.1e} of the first",
            style.verdict(edge.passed),
        ]
        for edge in demo.edges
    ]
    question = "Is 2/β the edge? Gradient descent on both sides of it:"
    return [style.bold(question), "", *grid(rows, "<<<<", style)]


def _bits(demo: Demo, style: Style) -> list[str]:
    passed = all(run.differs_at is None for run in demo.runs)
    steps = sum(run.steps for run in demo.runs)
    told = "every bit the same" if passed else "the bits differ"
    return [
        style.bold("Does a step give the same bits everywhere?"),
        "",
        f"{steps:,} steps, weights and state held against the NumPy reference: {told}   "
        + style.verdict(passed),
    ]


def grid(rows: list[list[str]], align: str, style: Style, gap: int = 3) -> list[str]:
    """The rows as lines of aligned columns. ``align`` has a < (left) or > (right) for each column."""
    rows = [[style.letters(cell) for cell in row] for row in rows]
    widths = [max(len(row[j]) if j < len(row) else 0 for row in rows) for j in range(len(align))]
    between = " " * gap
    return [
        between.join(f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=False))
        for row in rows
    ]


class FigureError(ValueError):
    """A figure cannot be written to this file; the message says why."""


def check_figure(path: str | PathLike[str], argument: str = "plot") -> None:
    """Raises before the work what save_figure would raise after it.

    Raises:
        ImportError: matplotlib is not installed.
        FigureError: the ending of the name is that of no format, or the folder cannot be written to.
    """
    path = Path(path)
    canvas = require("matplotlib.backend_bases", "a figure").FigureCanvasBase
    endings = sorted(f".{name}" for name in canvas.get_supported_filetypes())
    if path.suffix.lower() not in endings:
        raise FigureError(f"{argument}: got {str(path)!r}, expected a name that ends in {', '.join(endings)}")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK) or path.is_dir():
        raise FigureError(
            f"{argument}: {path} cannot be written; is {path.parent} a folder that you may write to?"
        )


def save_figure(demo: Demo, path: str | PathLike[str]) -> None:
    """Draws the gap of every run over its steps. The ending of the file's name chooses the format.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
        ValueError: the ending is that of no format.
    """
    # Not pyplot, which would look for a window system and keep a reference to the figure.
    figure = require("matplotlib.figure", "a figure").Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    labels = []
    for run, color in zip(demo.runs, _COLORS, strict=True):
        axes.plot(range(1, run.steps + 1), run.gaps[1:], color=color, linewidth=1.8)
        axes.plot(run.steps, run.gaps[-1], "o", color=color, markersize=5)
        labels.append(f"{run.optimizer}  {run.steps:,}" + ("" if run.reached else "+"))
    lines = axes.get_lines()[::2]
    axes.legend(lines, labels, title="steps", loc=(0.02, 0.1), edgecolor="none", labelcolor="linecolor")
    axes.axhline(GOAL, color="#adb5bd", linewidth=1, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="steps")
    axes.set_ylabel("gap L(w) - L*, as a share of the first one")
    name = demo.table.name.replace("$", r"\$")  # matplotlib reads the text between two as a formula
    title = f"{name}: six optimizers from w = 0, κ = {demo.problem.kappa:.4g}"
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(which="major", color="#f1f3f5")
    figure.savefig(path, dpi=160)
