"""The record of a run, and the comparison of two: where they part, and what came first.

samestep.ledger.megatron, for the traces of Megatron-LM, must be imported by its name.
"""

from . import merkle
from .compare import Diff, Difference, NotComparableError, diff, first_parted_line
from .elements import Element, first_element, most_ulps
from .pictures import Picture, Values, picture
from .records import Header, LedgerError, Record, Records, read_ledger
from .writer import Ledger

__all__ = [
    "Diff",
    "Difference",
    "Element",
    "Header",
    "Ledger",
    "LedgerError",
    "NotComparableError",
    "Picture",
    "Record",
    "Records",
    "Values",
    "diff",
    "first_element",
    "first_parted_line",
    "merkle",
    "most_ulps",
    "picture",
    "read_ledger",
]
