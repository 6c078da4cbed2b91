"""``python -m samestep``: the same as the console script."""

import sys

from .commands.cli import main

sys.exit(main())
