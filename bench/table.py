"""What the scripts share: their options, the situations, and a table of comparisons as text or JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

import samestep as ss
from samestep.commands.bench import machine
from samestep.commands.bench.compare import TABLE, Comparison
from samestep.commands.bench.situations import HOT, Situation, after_numpy, after_torch
from samestep.commands.bench.turns import QUICK_ROUNDS, ROUNDS


def parser_of(doc: str, seconds: float) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="for each case and situation, at least"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="the fewest; below 6 there is no interval")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and few rounds, to see that it runs")
    parser.add_argument("--json", action="store_true")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options; the number of threads is set."""
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 0.0, QUICK_ROUNDS
    ss.set_num_threads(options.threads)
    return options


def both_situations() -> tuple[Situation, Situation]:
    """Hot, and right after a backward pass of torch or, without torch, after NumPy's work.

    With torch, large jobs run on its OpenMP threads, as for every user of samestep.torch.
    """
    try:
        import samestep.torch  # noqa: F401
    except ImportError:
        return HOT, after_numpy()
    return HOT, after_torch()


class Table:
    """Prints comparisons as they come or, for JSON, at the end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.is_json = options.json
        self.about = machine.about(options.threads)
        self.rows: list[Comparison] = []
        if not self.is_json:
            print(f"{machine.in_words(self.about)}\n\n{TABLE}", flush=True)

    def add(self, comparisons: Iterable[Comparison]) -> None:
        for comparison in comparisons:
            self.rows.append(comparison)
            if not self.is_json:
                print(comparison.row(), flush=True)

    def close(self, **more: Any) -> None:
        if self.is_json:
            rows = [row.as_dict() for row in self.rows]
            print(json.dumps({"about": self.about, "rows": rows, **more}, indent=1))
