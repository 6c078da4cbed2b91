"""The comparison of two of Megatron-LM's traces for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..render import Style, grid
from ..table import counted


def traces_as_text(report: Mapping[str, Any], style: Style) -> str:
    """The report of ``samestep.ledger.megatron.compare_traces`` in lines, one for each rank."""
    sides = [
        [
            letter,
            report[side]["path"],
            counted(len(report[side]["ranks"]), "rank"),
            counted(report[side]["records"], "record"),
        ]
        for letter, side in (("A", "left"), ("B", "right"))
    ]
    verdict = (
        f"Every record is equal: {report['match_strength'].replace('_', ' ')}."
        if report["match"]
        else "They part."
    )
    ranks = [
        [
            f"rank {rank}",
            f"{counted(result['compared_records_before_divergence'], 'record')} equal",
            _told(result),
        ]
        for rank, result in report["rank_results"].items()
    ]
    lines = ["", *grid(sides, "<<<<", style), "", style.bold(verdict), "", *grid(ranks, "<><", style)]
    return style.letters("\n".join(f"  {line}".rstrip() for line in lines)) + "\n"


def _told(result: Mapping[str, Any]) -> str:
    found = result["first_divergence"]
    if found is None:
        return ""
    kind = found["kind"].replace("_", " ")
    if found["kind"] == "missing_event":
        side = "left" if found["missing_from"] == "right" else "right"
        return f"{_named(found[f'{side}_key'])}: missing from {'B' if side == 'left' else 'A'}"
    if found["kind"] == "content_mismatch":
        return f"{_named(found['left_key'])}: {', '.join(found['differing_fields'])}"
    return f"{kind}: {_named(found['left_key'])} in A, {_named(found['right_key'])} in B"


def _named(key: Mapping[str, Any]) -> str:
    """A record by what tells it from others."""
    when = [f"{name} {key[name]}" for name in ("iteration", "microbatch") if key[name] is not None]
    return f"{key['name']} ({', '.join([*when, key['phase']])})"
