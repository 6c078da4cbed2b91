"""The record of a run, and the comparison of two: where they part, and what came first."""

from .compare import Diff, Difference, NotComparableError, diff, first_parted_line
from .records import Header, LedgerError, Record, Records, read_ledger
from .writer import Ledger

__all__ = [
    "Diff",
    "Difference",
    "Header",
    "Ledger",
    "LedgerError",
    "NotComparableError",
    "Record",
    "Records",
    "diff",
    "first_parted_line",
    "read_ledger",
]
