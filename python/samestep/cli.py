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
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from . import cpu, verify
from .digits import train_digits
from .optional import require
from .render import FigureError, Style, as_text, check_figure, digits_as_text, save_figure
from .report import STAGES, run_demo
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
    except (TableError, FigureError, ImportError, OSError) as error:
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

    for command in (demo, info, check):
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
    with _progress() as bar:

        def announce(stage: str) -> None:
            if bar is not None:
                bar.set_description_str(stage)
                bar.update()

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


def _progress() -> contextlib.AbstractContextManager[Any]:
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    tqdm = require("tqdm", "the progress bar").tqdm
    bar: contextlib.AbstractContextManager[Any] = tqdm(
        total=STAGES, leave=False, bar_format="  {desc:<12}{bar:40} {elapsed}"
    )
    return bar
