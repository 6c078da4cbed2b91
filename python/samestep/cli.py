"""The command line: arguments in, text or JSON out, an exit code. No arithmetic, no measuring.

Exit codes: 0 all is well, 1 a check failed, 2 bad input.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from . import cpu, verify
from .demo import STAGES, run_demo
from .digits import train_digits
from .optional import require
from .render import FigureError, Style, as_text, check_figure, digits_as_text, save_figure
from .report import STAGES as REPORT_STAGES
from .report import ReportError, check_out, run_report
from .table import TableError, diabetes, read_csv

OK, FAILED, BAD_INPUT = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments; None: those of the process.

    Returns:
        The exit code. argparse itself exits with 2 where it cannot make sense of the arguments.
    """
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as head, has seen enough. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (TableError, FigureError, ReportError, ImportError, OSError) as error:
        print(f"samestep {arguments.name}: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return 130  # as a shell reports a command ended by Ctrl-C
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="samestep", description="Optimizer kernels with the same bits on every machine."
    )
    parser.add_argument("--version", action="version", version=f"samestep {metadata.version('samestep')}")
    commands = parser.add_subparsers(metavar="command", dest="name", required=True)

    demo = commands.add_parser("demo", help="solve a real problem with all six optimizers")
    demo.add_argument("--csv", metavar="FILE", help="a table of your own: numbers, first line column names")
    demo.add_argument("--target", metavar="COLUMN", help="the column of FILE to predict")
    demo.add_argument("--digits", action="store_true", help="train a network with batch norm instead")
    demo.add_argument("--plot", metavar="FILE", help="draw the loss curves, to a .png, .svg or .pdf file")
    demo.set_defaults(command=_demo, parser=demo)

    info = commands.add_parser("info", help="what runs here: instruction sets, threads, versions")
    info.set_defaults(command=_info)

    check = commands.add_parser("verify", help="prove the bits of every rule on this machine")
    check.set_defaults(command=_verify)

    report = commands.add_parser("report", help="measure the theory and show it on one HTML page")
    report.add_argument(
        "--out", metavar="FILE", default="report.html", help="the page; report.html by default"
    )
    report.add_argument("--quick", action="store_true", help="fewer draws and steps: half a minute at most")
    report.set_defaults(command=_report)

    for command in (demo, info, check, report):
        command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    if arguments.digits:
        return _digits(arguments)
    if (arguments.csv is None) != (arguments.target is None):
        given, missing = ("--csv", "--target") if arguments.target is None else ("--target", "--csv")
        arguments.parser.error(f"{given} needs {missing} as well: demo --csv FILE --target COLUMN")
    if arguments.plot is not None:
        check_figure(arguments.plot)
    table = diabetes() if arguments.csv is None else read_csv(arguments.csv, arguments.target)
    with _progress(STAGES) as announce:
        demo = run_demo(table, announce)
    if arguments.plot is not None:
        save_figure(demo, arguments.plot)
    if arguments.json:
        _print_json(demo.as_dict())
    else:
        sys.stdout.write(as_text(demo, _style(sys.stdout)))
        if arguments.plot is not None:
            print(f"\n  figure: {Path(arguments.plot)}")
    return OK if demo.passed else FAILED


def _digits(arguments: argparse.Namespace) -> int:
    for option in ("csv", "target", "plot"):
        if getattr(arguments, option) is not None:
            arguments.parser.error(f"--digits goes without --{option}: it trains on data of its own")
    result = train_digits()
    if arguments.json:
        _print_json(result.as_dict())
    else:
        sys.stdout.write(digits_as_text(result, _style(sys.stdout)))
    return OK if result.passed else FAILED


def _info(arguments: argparse.Namespace) -> int:
    info = cpu.info()
    if arguments.json:
        _print_json(info)
        return OK
    width = max(map(len, info))
    for name, value in info.items():
        print(f"{name.replace('_', ' '):{width}}  {_plain(value)}")
    return OK


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item or 'not installed'}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _verify(arguments: argparse.Namespace) -> int:
    result = verify.run((lambda line: None) if arguments.json else _print_now)
    if arguments.json:
        _print_json(result)
    else:
        print(_certificate(result))
    return FAILED if result["failures"] else OK


def _certificate(result: dict[str, Any]) -> str:
    verdict = f"{len(result['failures'])} FAILED" if result["failures"] else "all bits as promised"
    device = f", {result['gpu']} among them" if result.get("gpu") else ""
    return (
        f"certificate: contract {result['contract']}, sha256 {result['certificate']}, "
        f"{result['configurations']:,} configurations{device}, {verdict}"
    )


def _report(arguments: argparse.Namespace) -> int:
    check_out(arguments.out)
    with _progress(REPORT_STAGES) as announce:
        report = run_report(arguments.quick, announce)
    report.write(arguments.out)
    if arguments.json:
        _print_json(report.as_dict())
    else:
        failed = [row.item for row in report.rows if not row.passed]
        for item in failed:
            print(f"FAIL {item.key} {item.title}")
        verdict = f"{len(failed)} items FAIL" if failed else "every item as the theory says"
        print(f"{arguments.out}: {verdict}")
    return OK if report.passed else FAILED


def _print_now(line: str) -> None:
    print(line, flush=True)


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(_jsonable(value), indent=2, allow_nan=False))


def _jsonable(value: Any) -> Any:
    """The value with null for the numbers that JSON has no word for: infinity and NaN."""
    if isinstance(value, dict):
        return {str(name): _jsonable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _style(stream: TextIO) -> Style:
    try:
        "µβ√─▁".encode(stream.encoding)
        unicode = True
    except UnicodeEncodeError:
        unicode = False
    color = stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return Style(color=color, unicode=unicode)


@contextlib.contextmanager
def _progress(stages: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr, if that is a terminal; what it gives is to be called with the name of each stage."""
    if not sys.stderr.isatty():
        yield lambda stage: None
        return
    tqdm = require("tqdm", "the progress bar").tqdm
    with tqdm(total=stages, leave=False, bar_format="  {desc:<16}{bar:40} {elapsed}") as bar:

        def announce(stage: str) -> None:
            bar.set_description_str(stage)
            bar.update()

        yield announce
