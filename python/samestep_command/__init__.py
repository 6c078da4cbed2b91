"""The console script ``samestep``: imports samestep and hands over to samestep.commands.cli.

It is no part of the package, since it must run before the package does. ``import samestep`` raises ValueError
for a bad setting in the environment; the command reports that as bad input, in one line and with exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; see samestep.commands.cli.main.

    Args:
        argv: the arguments; None: those of the process.

    Returns:
        The exit code.
    """
    try:
        from samestep.commands import cli
    except ValueError as error:  # SAMESTEP_ISA or SAMESTEP_THREADS
        print(f"samestep: {error}", file=sys.stderr)
        return 2
    return cli.main(argv)
