"""Two of Megatron-LM's traces, compared by the rules of its own comparison."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from .schema import KEY, SCHEMA_VERSION, Trace, key_of

REPORT_VERSION = 2


def compare_traces(left: Trace, right: Trace) -> dict[str, Any]:
    """The report of two traces, as Megatron's comparison has it, for JSON.

    Records are not aligned: the two of a rank are walked through in parallel to the first that differ, which
    is a "missing_event" (one side has it, the other not), an "event_mismatch" (each has one that the other
    lacks), an "event_order_mismatch" or a "content_mismatch" (one key, other ``differing_fields``).
    """
    ranks = {str(rank): _compare_rank(left, right, rank) for rank in sorted({*left.ranks, *right.ranks})}
    is_match = all(result["match"] for result in ranks.values())
    modes = Counter(record["tensor"]["mode"] for record in left.records() if record["event"] == "tensor")
    strengths = {
        "full_tensor_certificate": {*modes} == {"full"},
        "structure_only": {*modes} == {"metadata"},
        "event_match": not modes,
        "diagnostic_tensor_match": True,
    }
    return {
        "left": _about(left),
        "match": is_match,
        "match_strength": next(name for name, holds in strengths.items() if holds) if is_match else "none",
        "rank_results": ranks,
        "report_version": REPORT_VERSION,
        "right": _about(right),
        "schema_version": SCHEMA_VERSION,
        "status": "match" if is_match else "diverged",
    }


def _about(trace: Trace) -> dict[str, Any]:
    modes = {record["tensor"]["mode"] for record in trace.records() if record["event"] == "tensor"}
    return {
        "path": trace.path,
        "ranks": sorted(trace.ranks),
        "records": sum(map(len, trace.ranks.values())),
        "tensor_modes": sorted(modes),
    }


def _compare_rank(left: Trace, right: Trace, rank: int) -> dict[str, Any]:
    sides = [trace.ranks.get(rank, ()) for trace in (left, right)]
    keys = [{*map(key_of, side)} for side in sides]
    longest = max(map(len, sides))
    for i in range(longest):
        x, y = (side[i] if i < len(side) else None for side in sides)
        is_in_right, is_in_left = (
            record is not None and key_of(record) in other for record, other in ((x, keys[1]), (y, keys[0]))
        )
        found: dict[str, Any]
        if x is not None and y is not None and key_of(x) == key_of(y):
            fields = sorted(
                name for name in {**x, **y} if name != "sequence" and _text_of(x, name) != _text_of(y, name)
            )
            if not fields:
                continue
            found = {"kind": "content_mismatch", "differing_fields": fields}
        elif x is None or y is None or is_in_right != is_in_left:
            is_missing_right = y is None or (x is not None and not is_in_right)
            found = {"kind": "missing_event", "missing_from": "right" if is_missing_right else "left"}
        else:
            found = {"kind": "event_order_mismatch" if is_in_right else "event_mismatch"}
        for name, record in (("left", x), ("right", y)):
            found[f"{name}_sequence"] = None if record is None else record["sequence"]
            found[f"{name}_key"] = None if record is None else {part: record[part] for part in KEY}
        return {"compared_records_before_divergence": i, "first_divergence": found, "match": False}
    return {"compared_records_before_divergence": longest, "first_divergence": None, "match": True}


def _text_of(record: Mapping[str, Any], name: str) -> str | None:
    """A field as JSON, in which 1 and true differ; None where there is none."""
    return json.dumps(record[name], sort_keys=True) if name in record else None
