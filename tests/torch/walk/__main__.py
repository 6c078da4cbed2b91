"""Prints the page: PYTHONPATH=tests/torch python -m walk [WORD ...], of the tools that have such a word."""

from __future__ import annotations

import logging
import sys
import warnings

from . import table

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.stdout.write(table.page(sys.argv[1:]))
