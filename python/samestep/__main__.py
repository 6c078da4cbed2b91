"""``python -m samestep`` runs the console script ``samestep``."""

import sys

from .commands.cli import main

sys.exit(main())
