"""``samestep diff``: where two runs part, as text, as one JSON object, as a page and as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ledger import Diff, Records
from .figure import save_diff_figure
from .page import write_page
from .text import diff_as_text

__all__ = ["diff_as_dict", "diff_as_text", "save_diff_figure", "write_page"]


def diff_as_dict(found: Diff) -> dict[str, Any]:
    """The comparison as plain numbers, strings, lists and dicts."""
    first = found.first
    return {
        "equal": found.is_equal,
        "a": _side(found.a),
        "b": _side(found.b),
        "steps": {"compared": len(found.steps), "first": found.steps[0], "last": found.steps[-1]},
        "options": {name: list(values) for name, values in found.options.items()},
        "left_out": list(found.left_out),
        "first": None
        if first is None
        else {
            "told": str(first),
            "step": first.step,
            "after": first.after,
            "what": first.what,
            "name": first.name,
            "kind": first.kind,
            "group": first.group,
            "values": list(first.values),
            "lines": list(first.lines),
            "counts": dict(first.counts),
        },
    }


def _side(side: Records) -> Mapping[str, Any]:
    return {"path": side.path, "digest": side.digest, "lines": len(side.digests)}
