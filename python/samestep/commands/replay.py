"""``samestep replay`` as a command: recomputes what a ledger records and says accepted or rejected."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from typing import Any

from ..backends import cpu
from ..ledger import diff, read_ledger
from ..ledger.records import Records
from ..replay import optimizer_at, read_arrays, replay, run_script
from .output import print_json

ACCEPTED, REJECTED = 0, 1


class ReplayError(ValueError):
    """The files do not fit the ledger, or the machine cannot do what was asked for."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    command.add_argument("ledger", metavar="LEDGER", help="what optimizer.record wrote")
    command.add_argument("--script", metavar="SCRIPT", help="run this again, and compare what it records")
    command.add_argument(
        "--step", type=int, metavar="N", help="with --script: up to this step; all by default"
    )
    command.add_argument("--from", dest="state", metavar="CHECKPOINT", help="what optimizer.save wrote")
    command.add_argument("--params", metavar="FILE", help="the parameters at that time, .npz or .safetensors")
    command.add_argument(
        "--gradients", nargs="+", metavar="FILE", help="of each step after it, likewise, in their order"
    )
    command.add_argument("--tensor", metavar="NAME", help="with --from: compare this one alone")
    command.add_argument("--isa", metavar="NAME", help="with --from: the instruction set to recompute with")
    command.add_argument(
        "--backend",
        choices=("cpu", "reference", "cuda"),
        help="with --from: where to recompute; cpu by default",
    )


def run(arguments: argparse.Namespace) -> int:
    """Recomputes, prints the verdict and returns the exit code."""
    by_files = (arguments.state, arguments.params, arguments.gradients)
    if (arguments.script is None) == (None in by_files):
        arguments.parser.error("expected --script, or --from, --params and --gradients")
    is_script = arguments.script is not None
    unused = ("tensor", "isa", "backend") if is_script else ("step",)
    for name in unused:
        if getattr(arguments, name) is not None:
            other = "--from, and a script recomputes as it says itself" if is_script else "--script"
            arguments.parser.error(f"--{name} goes with {other}; leave it out")
    ledger = read_ledger(arguments.ledger)
    if not ledger.records:
        raise ReplayError(f"{ledger.path}: has a header and no other line, expected a step to recompute")
    if arguments.tensor is not None and arguments.tensor not in ledger.header.tensors:
        arguments.parser.error(f"--tensor: expected one of {', '.join(ledger.header.tensors)}")
    try:
        if arguments.isa is not None:
            cpu.set_isa(arguments.isa)
        told, facts = (_run_script if is_script else _run_steps)(arguments, ledger)
    except (TypeError, ValueError) as error:
        raise ReplayError(str(error)) from None
    if arguments.json:
        print_json(facts)
    else:
        sys.stdout.write(f"{told}\n")
    return ACCEPTED if facts["accepted"] else REJECTED


def _run_steps(arguments: argparse.Namespace, ledger: Records) -> tuple[str, dict[str, Any]]:
    optimizer = optimizer_at(ledger, arguments.state, arguments.params, backend=arguments.backend or "cpu")
    gradients = (read_arrays(ledger, path) for path in arguments.gradients)
    verdict = replay(ledger, optimizer, gradients, only=arguments.tensor)
    return str(verdict), {"accepted": verdict.accepted, **asdict(verdict)}


def _run_script(arguments: argparse.Namespace, ledger: Records) -> tuple[str, dict[str, Any]]:
    step = ledger.records[-1].step if arguments.step is None else arguments.step
    with tempfile.TemporaryDirectory() as folder:
        found = diff(ledger, run_script(arguments.script, ledger, step, folder).ledger)
    missing = _missing(ledger, found.b, step)
    first = str(missing if found.first is None else found.first)
    if found.first is None and missing is None:
        steps = f"steps {found.steps[0]} to {found.steps[-1]}"
        return (
            f"accepted: {steps} recomputed, {len(found.steps)} lines compared",
            {"accepted": True, "first": None},
        )
    told = f"rejected: {first}"
    if found.first is not None:
        told += f": recorded {found.first.values[0]}, recomputed {found.first.values[1]}"
    return told, {"accepted": False, "first": first}


def _missing(ledger: Records, again: Records, last: int) -> str | None:
    """What the ledger claims that was not recomputed, up to a step."""
    for name, claimed in vars(ledger.header).items():
        if (found := vars(again.header)[name]) != claimed:
            return f"the header's {name} differ: recorded {claimed}, recomputed {found}"
    by_step = again.by_step()
    for step, record in ledger.by_step().items():
        if step > last:
            continue
        if step not in by_step:
            return f"step {step} was not recomputed"
        other = by_step[step]
        if not (record.is_start or other.is_start) and record.extras.keys() != other.extras.keys():
            return f"step {step}: recorded {', '.join(record.extras) or 'nothing'} besides, recomputed " + (
                ", ".join(other.extras) or "nothing"
            )
    return None
