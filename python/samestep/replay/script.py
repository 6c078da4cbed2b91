"""Runs a training script again up to a step of its ledger, in a process of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass

from ..backends.arrays import Array
from ..ledger.records import Records, read_ledger
from ..ledger.watch import Watch, arrays_of


class ScriptError(RuntimeError):
    """A script cannot be replayed: it fails, or it records no such ledger or step."""


@dataclass(frozen=True)
class Rerun:
    """What a script recorded when it was run again, up to some step.

    Attributes:
        ledger: its records.
        path: where they were written; the arrays of the last step are beside it.
    """

    ledger: Records
    path: str

    def array(self, name: str, kind: str) -> Array | None:
        """An array of the last step: of a tensor the gradient, the parameter or a state."""
        return arrays_of(self.path, name, kind)


def words_of(command: str) -> list[str]:
    """A script's file and its arguments.

    Raises:
        ScriptError: there is none, or a quote is open.
    """
    lexer = shlex.shlex(command, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    if os.sep == "\\":  # Windows, where it is no escape but parts folders
        lexer.escape = ""
    try:
        words = list(lexer)
    except ValueError as error:
        raise ScriptError(
            f"script: got {command!r}, expected a command as a shell has it ({error})"
        ) from None
    if not words:
        raise ScriptError(
            f"script: got {command!r}, expected a file and its arguments, as 'train.py --seed 1'"
        )
    return words


def run_script(command: str, like: Records, step: int, folder: str) -> Rerun:
    """Runs a script with the arguments that it had, and ends it after a step.

    What it records to a file with the name of ``like`` is written to ``folder`` instead, and nothing that it
    recorded before is touched. What else it writes, it writes again.

    Args:
        command: the script's file and its arguments, as a shell has them: ``"train.py --seed 1"``.
        like: the ledger that it wrote before.
        step: after which it ends.
        folder: an empty folder, which stays.

    Raises:
        ScriptError: it fails, or records no ledger of this name, or does not come to the step.
    """
    if step not in like.by_step():
        steps = [record.step for record in like.records]
        raise ScriptError(
            f"{like.path}: has no line for step {step}, expected one of {min(steps)} to {max(steps)}, every "
            f"{like.header.every}"
        )
    watch = Watch(os.path.abspath(folder), os.path.basename(like.path), step)
    done = subprocess.run(
        [sys.executable, *words_of(command)],
        env=watch.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.strip().rpartition("\n")[2]
        raise ScriptError(f"{command}: ended with exit code {done.returncode}: {last}")
    path = watch.path(like.path)
    if not os.path.exists(path):
        name = os.path.basename(path)
        raise ScriptError(
            f"{command}: recorded no ledger of the name {name}, expected optimizer.record(...{name})"
        )
    found = read_ledger(path)
    if found.records[-1].step != step:
        raise ScriptError(f"{command}: ended after step {found.records[-1].step}, expected step {step}")
    return Rerun(found, path)
