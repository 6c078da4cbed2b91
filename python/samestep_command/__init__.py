"""The console script ``samestep``: imports samestep and hands over to samestep.commands.cli.

Outside of the package, so that it runs before the package does: a setting in the environment that
``import samestep`` refuses with a ValueError is to a user of the command bad input, one line and exit code 2.
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
