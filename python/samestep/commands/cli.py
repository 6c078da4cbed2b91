"""The command line: parses arguments, runs a command, prints text or JSON. No arithmetic, no measuring.

Exit codes: 0 success, 1 a check failed, 2 bad input, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ..backends import cpu
from ..ledger import LedgerError, NotComparableError, megatron
from ..optional import require
from ..proof import verify
from ..replay import ScriptError
from . import diff, doctor, replay
from .bench import cases as bench_cases
from .bench import machine as bench_machine
from .bench import peers as bench_peers
from .bench import run as bench_run
from .bench import show as bench_show
from .bench import turns as bench_turns
from .demo import STAGES, run_demo
from .digits import DigitsResult, train_digits
from .digits_torch import Comparison, compare
from .output import print_json, style_of
from .render import (
    FigureError,
    as_text,
    check_figure,
    comparison_as_text,
    digits_as_text,
    save_figure,
)
from .report import OWN_STAGES, ReportError, check_out, report_on, run_report
from .report import STAGES as REPORT_STAGES
from .table import Table, TableError, diabetes, read_csv

OK, FAILED, BAD_INPUT = 0, 1, 2
_BAD_INPUT_ERRORS = (
    TableError,
    FigureError,
    ReportError,
    LedgerError,
    NotComparableError,
    megatron.TraceError,
    replay.ReplayError,
    ScriptError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments; None: those of the process.

    Returns:
        The exit code. If the arguments cannot be parsed, argparse exits the process with 2.
    """
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as head, closed the pipe. Without /dev/null Python would report it once more at
        # exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (*_BAD_INPUT_ERRORS, ImportError, OSError) as error:
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
    _add_table(demo)
    demo.add_argument("--digits", action="store_true", help="train a network with batch norm instead")
    demo.add_argument(
        "--torch", action="store_true", help="with --digits: in samestep.torch and in torch as well"
    )
    demo.add_argument("--plot", metavar="FILE", help="draw the loss curves, to a .png, .svg or .pdf file")
    demo.set_defaults(command=_demo, parser=demo)

    info = commands.add_parser("info", help="what runs here: instruction sets, threads, versions")
    info.set_defaults(command=_info)

    what_and_why = commands.add_parser("doctor", help="what this machine will use and why; exit 1: mend it")
    what_and_why.set_defaults(command=doctor.run)

    check = commands.add_parser("verify", help="prove the bits of every rule on this machine")
    check.set_defaults(command=_verify)

    bench = commands.add_parser("bench", help="time every rule beside the peers installed and the roof")
    rules, lists, peers = tuple(bench_cases.RULES), tuple(bench_cases.LISTS), tuple(bench_peers.PEERS)
    bench.add_argument(
        "--rules", nargs="*", choices=rules, default=rules, metavar="RULE", help=", ".join(rules)
    )
    bench.add_argument(
        "--sizes", nargs="*", type=_size, default=bench_cases.SIZES, metavar="N", help="of one array"
    )
    bench.add_argument(
        "--lists", nargs="*", choices=lists, default=lists, metavar="LIST", help=", ".join(lists)
    )
    bench.add_argument(
        "--peers", nargs="*", choices=peers, default=peers, metavar="PEER", help=", ".join(peers)
    )
    bench.add_argument(
        "--threads", nargs="+", type=_threads, default=(1, 2), metavar="N", help="1 2 by default"
    )
    bench.add_argument("--seconds", type=_seconds, default=3.0, help="for each row of the table, at least")
    bench.add_argument(
        "--rounds",
        type=_size,
        default=bench_turns.ROUNDS,
        metavar="N",
        help="the fewest; below 6 no interval",
    )
    bench.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    bench.add_argument("--plot", metavar="FILE", help="draw time against size, to a .png, .svg or .pdf file")
    bench.set_defaults(command=_bench, parser=bench)

    report = commands.add_parser("report", help="measure the theory and show it on one HTML page")
    report.add_argument(
        "--out", metavar="FILE", default="report.html", help="the page; report.html by default"
    )
    report.add_argument("--quick", action="store_true", help="fewer draws and steps: half a minute at most")
    _add_table(report)
    report.set_defaults(command=_report, parser=report)

    compare = commands.add_parser("diff", help="say where two recorded runs part: exit 0 equal, 1 parted")
    diff.add_arguments(compare)
    compare.set_defaults(command=diff.run, parser=compare)

    again = commands.add_parser("replay", help="recompute recorded steps: exit 0 accepted, 1 rejected")
    replay.add_arguments(again)
    again.set_defaults(command=replay.run, parser=again)

    for command in (demo, info, what_and_why, check, bench, report, compare, again):
        command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser


def _add_table(command: argparse.ArgumentParser) -> None:
    """Adds the options that name a table of the user's own."""
    command.add_argument(
        "--csv",
        metavar="FILE",
        help="a table of your own: numbers, first line column names; text is left out",
    )
    command.add_argument("--target", metavar="COLUMN", help="the column of FILE to predict")
    command.add_argument(
        "--drop", metavar="COLUMN", nargs="+", action="extend", help="columns of FILE to leave out"
    )


def _own_table(arguments: argparse.Namespace) -> Table | None:
    if arguments.csv is None and arguments.target is None and arguments.drop is None:
        return None
    for missing in ("csv", "target"):
        if getattr(arguments, missing) is None:
            given = next(name for name in ("csv", "target", "drop") if getattr(arguments, name) is not None)
            arguments.parser.error(
                f"--{given} needs --{missing} as well: {arguments.name} --csv FILE --target COLUMN"
            )
    return read_csv(arguments.csv, arguments.target, arguments.drop or ())


def _demo(arguments: argparse.Namespace) -> int:
    if arguments.digits:
        return _digits(arguments)
    if arguments.torch:
        arguments.parser.error("--torch needs --digits as well: it compares the training of that network")
    if arguments.plot is not None:
        check_figure(arguments.plot)
    table = _own_table(arguments) or diabetes()
    with _progress(STAGES) as announce:
        demo = run_demo(table, announce)
    if arguments.plot is not None:
        save_figure(demo, arguments.plot)
    if arguments.json:
        print_json(demo.as_dict())
    else:
        sys.stdout.write(as_text(demo, style_of(sys.stdout)))
        if arguments.plot is not None:
            print(f"\n  figure: {Path(arguments.plot)}")
    return OK if demo.passed else FAILED


def _digits(arguments: argparse.Namespace) -> int:
    for option in ("csv", "target", "drop", "plot"):
        if getattr(arguments, option) is not None:
            arguments.parser.error(f"--digits goes without --{option}: it trains on data of its own")
    result: DigitsResult | Comparison
    if arguments.torch:
        with _progress(len(cpu.info()["isas"])) as announce:
            result = compare(announce=announce)
        text = comparison_as_text(result, style_of(sys.stdout))
    else:
        result = train_digits()
        text = digits_as_text(result, style_of(sys.stdout))
    if arguments.json:
        print_json(result.as_dict())
    else:
        sys.stdout.write(text)
    return OK if result.passed else FAILED


def _info(arguments: argparse.Namespace) -> int:
    info = cpu.info()
    if arguments.json:
        print_json(info)
        return OK
    width = max(map(len, info))
    for name, value in info.items():
        print(f"{name.replace('_', ' '):{width}}  {_as_text(value)}")
    return OK


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item or 'not installed'}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _size(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number >= 1")
    return int(text)


def _threads(text: str) -> int:
    if _size(text) > cpu.MOST_THREADS:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected 1 to {cpu.MOST_THREADS} threads")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a finite number of seconds, 0 or more")
    return seconds


def _bench(arguments: argparse.Namespace) -> int:
    lists = {name: bench_cases.LISTS[name] for name in arguments.lists}
    sizes, seconds, rounds = arguments.sizes, arguments.seconds, arguments.rounds
    if arguments.quick:
        sizes, lists = (64, 1000), {"3 x 10": [(10,)] * 3}
        seconds, rounds = 0.0, bench_turns.QUICK_ROUNDS
    if arguments.plot is not None:
        if not sizes:
            arguments.parser.error("--plot draws time against size: it needs --sizes")
        check_figure(arguments.plot)
    cases: dict[str, bench_cases.Shapes] = {f"1 x {n}": [(n,)] for n in sizes}
    if not arguments.json:
        _print_now(bench_show.HEADER)
    rows = bench_run.measure_all(
        arguments.rules,
        cases | lists,
        threads=arguments.threads,
        peers=tuple(arguments.peers),
        seconds=seconds,
        rounds=rounds,
        announce=lambda row: None if arguments.json else _print_now(bench_show.line(row)),
    )
    if arguments.plot is not None:
        bench_show.save_figure(rows, arguments.plot)
    if arguments.json:
        about = bench_machine.about(max(arguments.threads))
        print_json({"info": cpu.info(), "about": about, "rows": [row.as_dict() for row in rows]})
    return OK


def _verify(arguments: argparse.Namespace) -> int:
    result = verify.run((lambda line: None) if arguments.json else _print_now)
    if arguments.json:
        print_json(result)
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
    table = _own_table(arguments)
    if table is None:
        with _progress(REPORT_STAGES) as announce:
            report = run_report(arguments.quick, announce)
    else:
        with _progress(OWN_STAGES) as announce:
            report = report_on(table, arguments.quick, announce)
    report.write(arguments.out)
    if arguments.json:
        print_json(report.as_dict())
    else:
        failed = [row.item for row in report.rows if not row.passed]
        for item in failed:
            print(f"FAIL {item.key} {item.title}")
        tally = "1 item FAILS" if len(failed) == 1 else f"{len(failed)} items FAIL"
        verdict = tally if failed else "every item as the theory says"
        print(f"{arguments.out}: {verdict}")
    return OK if report.passed else FAILED


def _print_now(line: str) -> None:
    print(line, flush=True)


@contextlib.contextmanager
def _progress(stages: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr, if that is a terminal; yields a function to call with each stage's name."""
    if not sys.stderr.isatty():
        yield lambda stage: None
        return
    tqdm = require("tqdm", "the progress bar").tqdm
    with tqdm(total=stages, leave=False, bar_format="  {desc:<16}{bar:40} {elapsed}") as bar:

        def announce(stage: str) -> None:
            bar.set_description_str(stage)
            bar.update()

        yield announce
