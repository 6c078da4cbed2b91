"""The record of a run, and the comparison of two: where they part, and what came first."""

from .records import Header, LedgerError, Record, Records, read_ledger
from .writer import Ledger

__all__ = ["Header", "Ledger", "LedgerError", "Record", "Records", "read_ledger"]
