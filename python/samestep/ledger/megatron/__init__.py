"""Megatron-LM's determinism traces: folders of rank_NNNNNN.jsonl, read, written and compared by its rules.

A record is an event, with ``fields``, or a tensor, with the sha256 of its values. Records of two traces are
compared in the order in which a rank made them; over the ranks there is no order, so each has its own first
difference.
"""

from .compare import compare_traces
from .schema import Trace, TraceError, read_trace, sha256_of
from .writer import TraceWriter

__all__ = ["Trace", "TraceError", "TraceWriter", "compare_traces", "read_trace", "sha256_of"]
