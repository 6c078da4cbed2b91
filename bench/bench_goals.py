"""Measures each case that has a goal, and prints the result beside the goal.

    python bench/bench_goals.py [--seconds S] [--without "GPT-2 small"] [--json] [--quick]

Ratios are torch 2.13's time over ours, on two threads in one run, measured as `samestep bench` does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any, NamedTuple

import samestep as ss
from samestep.commands.bench import run
from samestep.commands.bench.cases import LISTS, Shapes

LARGE, CACHED = 2**24, 2**14


class Goal(NamedTuple):
    rule: str
    case: str
    shapes: Shapes
    torch: float  # the goal for torch's time over ours
    against: str  # which of torch's implementations
    roof: float | None = None  # the goal for the share of the roof


def goals(large: int) -> list[Goal]:
    fused, best = "torch fused", "torch best"
    found = [
        Goal(rule, f"{large:,}", [(large,)], 1.1, fused, 0.95)
        for rule in ("Adam", "Momentum", "NAG", "AdaGrad", "SGD")
    ]
    found += [Goal("RMSProp", f"{large:,}", [(large,)], 4.0, best, 0.95)]
    found += [
        Goal(rule, f"{CACHED:,}", [(CACHED,)], 5.0, best)
        for rule in ("Adam", "AdaGrad", "RMSProp", "Momentum")
    ]
    found += [
        Goal("Adam", "1 x 64", [(64,)], 20.0, fused),
        Goal("Adam", "300 x 64", LISTS["300 x 64"], 60.0, fused),
        Goal("Adam", "1000 x 1000", LISTS["1000 x 1000"], 15.0, fused),
        Goal("Adam", "ResNet-50", LISTS["ResNet-50"], 1.3, fused),
        Goal("Adam", "GPT-2 small", LISTS["GPT-2 small"], 1.1, fused),
    ]
    return found


def measure(goal: Goal, seconds: float, threads: int) -> dict[str, Any]:
    row = run.measure(goal.rule, goal.case, goal.shapes, threads=threads, peers=("torch",), seconds=seconds)
    peers = {name: us for name, us in row.peers.items() if goal.against in (name, "torch best")}
    ratio = min(peers.values()) / row.us["samestep"] if peers else None
    met = ratio is not None and ratio >= goal.torch and (goal.roof is None or row.share_of_roof >= goal.roof)
    return {**row.as_dict(), "goal": goal.torch, "goal_roof": goal.roof, "against": goal.against,
            "times_faster": ratio, "met": met}  # fmt: skip


def scaling(large: int, seconds: float) -> dict[str, Any]:
    """The time of one thread over that of two, measured one after the other, and the same for the roof."""
    rows = {
        n: run.measure("Adam", f"{large:,}", [(large,)], threads=n, peers=(), seconds=seconds) for n in (1, 2)
    }
    ours, roof = (rows[1].us[who] / rows[2].us[who] for who in ("samestep", "roof"))
    return {"case": f"2 threads against 1, Adam {large:,}", "times_faster": ours, "roofs_own": roof,
            "goal": 1.7, "met": ours >= min(1.7, 0.95 * roof)}  # fmt: skip


def import_time(rounds: int) -> dict[str, Any]:
    """Milliseconds of ``import samestep`` after that of NumPy, the minimum of several processes."""
    code = "import numpy, time; t = time.perf_counter(); import samestep; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, encoding="utf-8", check=True) for _ in range(rounds)]
    ms = 1e3 * min(float(done.stdout) for done in runs)
    return {"case": "import beyond NumPy", "ms": ms, "goal_ms": 50.0, "met": ms <= 50.0}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="for each case")
    parser.add_argument("--without", nargs="*", default=(), metavar="CASE", help="cases to leave out")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    seconds, large, threads = (0.0, 1000, 1) if options.quick else (options.seconds, LARGE, 2)
    wanted = [goal for goal in goals(large) if goal.case not in options.without]
    wanted = wanted[:8] if options.quick else wanted
    started = time.strftime("%Y-%m-%d")
    rows = []
    if not options.json:
        print(f"{started}, {threads} threads, {ss.info()['isa']}\n")
        print("| case | us | GB/s | share of the roof | goal | times faster than | goal | met |")
        print("|---|---|---|---|---|---|---|---|")
    for goal in wanted:
        rows.append(measure(goal, seconds, threads))
        if not options.json:
            r = rows[-1]
            ratio = "" if r["times_faster"] is None else f"{r['times_faster']:.2f}x {r['against']}"
            print(
                f"| {r['rule']} {r['case']} | {r['us']['samestep']:.2f} | {r['gb_per_s']:.1f} | "
                f"{r['share_of_roof']:.2f} | {r['goal_roof'] or ''} | {ratio} | {r['goal']}x | "
                f"{'yes' if r['met'] else 'no'} |",
                flush=True,
            )
    scaled, imported = scaling(large, seconds), import_time(2 if options.quick else 15)
    if options.json:
        print(json.dumps({"date": started, "info": ss.info(), "rows": [*rows, scaled, imported]}, indent=1))
        return
    print(
        f"\n{scaled['case']}: {scaled['times_faster']:.2f}x (goal {scaled['goal']}x; the roof's own "
        f"{scaled['roofs_own']:.2f}x)"
    )
    print(f"{imported['case']}: {imported['ms']:.0f} ms (goal {imported['goal_ms']:.0f} ms)")


if __name__ == "__main__":
    main()
