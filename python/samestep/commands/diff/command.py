"""``samestep diff`` as a command: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence

from ...backends.arrays import Array
from ...ledger import Diff, Values, diff, megatron
from ...replay.script import run_script, words_of
from ..output import print_json, style_of
from ..render import check_figure
from ..report import check_out
from .figure import save_diff_figure
from .page import write_page
from .text import diff_as_dict, diff_as_text
from .traces import traces_as_text

EQUAL, PARTED, NOT_COMPARABLE = 0, 1, 2


def add_arguments(compare: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    compare.add_argument("a", metavar="A", help="a ledger, which optimizer.record writes; or a trace")
    compare.add_argument("b", metavar="B", help="the other one")
    compare.add_argument("--html", metavar="FILE", help="show both side by side on an HTML page")
    compare.add_argument("--png", metavar="FILE", help="draw their distance, to a .png, .svg or .pdf file")
    compare.add_argument(
        "--replay",
        nargs="+",
        metavar="SCRIPT",
        help="run the scripts of A and B again, or one for both, up to where they part, and name the element",
    )
    compare.add_argument(
        "--format",
        choices=("ledger", "megatron"),
        default="ledger",
        help="megatron: folders of rank_000000.jsonl, as Megatron-LM's determinism traces",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compares, prints and draws; returns the exit code."""
    if arguments.format == "megatron":
        return _diff_traces(arguments)
    if arguments.html is not None:
        check_out(arguments.html, "html")
    if arguments.png is not None:
        check_figure(arguments.png, "png")
    if arguments.replay is not None and len(arguments.replay) > 2:
        arguments.parser.error("--replay: expected one script for both runs, or two")
    for name, path in ("html", arguments.html), ("png", arguments.png):
        if path is not None and os.path.realpath(path) in map(os.path.realpath, (arguments.a, arguments.b)):
            arguments.parser.error(f"--{name}: got {path}, which is one of the ledgers; name another file")
    found = diff(arguments.a, arguments.b)
    with replayed(found, arguments.replay) as values:
        if arguments.html is not None:
            write_page(found, arguments.html, values)
        if arguments.png is not None:
            save_diff_figure(found, arguments.png)
        if arguments.json:
            print_json(diff_as_dict(found, values))
        else:
            width = shutil.get_terminal_size(fallback=(100, 24)).columns
            sys.stdout.write(diff_as_text(found, style_of(sys.stdout), width, values))
    return EQUAL if found.is_equal else PARTED


@contextlib.contextmanager
def replayed(found: Diff, scripts: Sequence[str] | None) -> Iterator[Values | None]:
    """The arrays of both runs at the step where they part, from running their scripts again."""
    for script in scripts or ():
        words_of(script)
    if scripts is None or found.first is None or not found.first.kind:  # a setting has no elements
        yield None
        return
    step = found.first.step
    with tempfile.TemporaryDirectory() as folder:
        reruns = []
        for name, script, ledger in zip("AB", [*scripts, *scripts][:2], (found.a, found.b), strict=True):
            own = os.path.join(folder, name)
            os.mkdir(own)
            reruns.append(run_script(script, ledger, step, own))

        def values(at: int, name: str, kind: str) -> tuple[Array, Array] | None:
            a, b = (rerun.array(name, kind) if at == step else None for rerun in reruns)
            return None if a is None or b is None else (a, b)

        yield values


def _diff_traces(arguments: argparse.Namespace) -> int:
    """With ``--json``, what Megatron's own comparison prints, for bad input too."""
    if arguments.html is not None or arguments.png is not None:
        arguments.parser.error(
            "--format megatron goes without --html and --png: a trace has no steps to draw"
        )
    if arguments.replay is not None:
        arguments.parser.error("--format megatron goes without --replay: no script writes a trace again")
    try:
        report = megatron.compare_traces(*map(megatron.read_trace, (arguments.a, arguments.b)))
    except (megatron.TraceError, OSError) as error:
        if not arguments.json:
            raise
        print_json({"error": str(error), "match": False, "status": "invalid_trace"})
        return NOT_COMPARABLE
    if arguments.json:
        print_json(report)
    else:
        sys.stdout.write(traces_as_text(report, style_of(sys.stdout)))
    return EQUAL if report["match"] else PARTED
