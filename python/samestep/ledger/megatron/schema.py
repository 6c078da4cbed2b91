"""The schema of Megatron-LM's determinism traces: what a record is, and reading with all checks.

Source: NVIDIA/Megatron-LM, megatron/core/determinism/trace_schema.py, schema version 1.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arguments import check_choice
from ..lines import finite

SCHEMA_VERSION = 1
MODES = ("metadata", "summary", "sampled", "full")  # from the shape alone to all values
KEY = ("rank", "iteration", "microbatch", "phase", "event", "name", "occurrence")
LONGEST_NAME = 512
_FILE = re.compile(r"rank_(\d+)\.jsonl")
_SHA256 = re.compile("[0-9a-f]{64}")


class TraceError(ValueError):
    """A trace is not of the schema; the message names the file and the line."""


@dataclass(frozen=True)
class Trace:
    """A trace that was read.

    Attributes:
        path: of the folder or file.
        ranks: the records of each rank, in the order of their sequence.
    """

    path: str
    ranks: Mapping[int, Sequence[Mapping[str, Any]]]

    def records(self) -> Iterator[Mapping[str, Any]]:
        """Those of all ranks."""
        for rank in sorted(self.ranks):
            yield from self.ranks[rank]


def read_trace(path: str | os.PathLike[str]) -> Trace:
    """Reads a folder of rank_NNNNNN.jsonl, or one such file, and checks every record.

    Raises:
        TraceError: a line is not of the schema, two files are of one rank, or there is no record.
        OSError: a file cannot be read.
    """
    path = Path(path)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    ranks: dict[int, list[dict[str, Any]]] = {}
    for file in files:
        named = _FILE.fullmatch(file.name)
        if named is None:
            if path.is_dir():
                continue
            raise TraceError(f"{file}: expected a name such as rank_000000.jsonl")
        rank = int(named[1])
        if rank in ranks:
            raise TraceError(f"{file}: another file of the folder is of rank {rank} as well")
        ranks[rank] = _records_of(file, rank)
    if not any(ranks.values()):
        raise TraceError(f"{path}: expected records in files such as rank_000000.jsonl, found none")
    return Trace(str(path), ranks)


def _records_of(file: Path, rank: int) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    lines: dict[tuple[Any, ...], int] = {}
    for line, text in enumerate(file.read_bytes().split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            record = _DECODER.decode(text.decode())
            check_record(record, rank)
            if records and record["sequence"] <= records[-1]["sequence"]:
                raise ValueError(f"sequence: got {record['sequence']} after {records[-1]['sequence']}")
            key = key_of(record)
            if key in lines:
                raise ValueError(f"it has the key of line {lines[key]}: {', '.join(KEY)}")
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{file}, line {line}: {error}") from None
        lines[key] = line
        records.append(record)
    return records


def key_of(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two records of two runs have in common if they are of the same thing."""
    return tuple(record[name] for name in KEY)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=finite, parse_float=finite)


def check_record(record: Any, rank: int) -> None:
    """Raises ValueError unless it is of the schema."""
    if not isinstance(record, dict):
        raise ValueError("expected a JSON object")
    wanted: dict[str, bool] = {
        "schema_version": _is_whole(record.get("schema_version"))
        and record["schema_version"] == SCHEMA_VERSION,
        "rank": _is_whole(record.get("rank")) and record["rank"] == rank,
        "sequence": _is_whole(record.get("sequence")),
        "occurrence": _is_whole(record.get("occurrence")),
        **{
            name: name in record and (record[name] is None or _is_whole(record[name]))
            for name in ("iteration", "microbatch")
        },
        **{name: _is_name(record.get(name)) for name in ("phase", "name")},
        "event": record.get("event") in ("event", "tensor"),
    }
    if record.get("event") == "event":
        wanted["fields"] = isinstance(record.get("fields"), dict)
    elif record.get("event") == "tensor":
        wanted["metadata"] = isinstance(record.get("metadata"), dict)
        wanted["tensor"] = isinstance(record.get("tensor"), dict)
    _raise_unless(wanted, record, "")
    if record["event"] == "tensor":
        _check_tensor(record["tensor"])


def _check_tensor(facts: Mapping[str, Any]) -> None:
    of_size: tuple[Any, ...] = tuple(facts.get(key) for key in ("mode", "shape", "numel", "captured_numel"))
    mode, shape, numel, captured = of_size
    check_choice("tensor.mode", mode, MODES)
    has_shape = isinstance(shape, list) and all(map(_is_whole, shape))
    is_strided = facts.get("layout") == "strided"
    has_digest = mode in ("sampled", "full")
    wanted = {
        "shape": has_shape,
        "numel": _is_whole(numel) and has_shape and numel == math.prod(shape),
        **{key: isinstance(facts.get(key), str) for key in ("dtype", "layout", "device_type")},
        "requires_grad": isinstance(facts.get("requires_grad"), bool),
        "stride": not is_strided
        or (has_shape and _are_whole(facts.get("stride")) and len(facts["stride"]) == len(shape)),
        "value_observed": facts.get("value_observed") is (mode != "metadata"),
        "exact_value_certificate": facts.get("exact_value_certificate") is (mode == "full"),
        "sha256": (isinstance(facts.get("sha256"), str) and _SHA256.fullmatch(facts["sha256"]) is not None)
        if has_digest
        else "sha256" not in facts,
        "captured_numel": (_is_whole(captured) and has_shape and captured <= (numel or 0))
        if has_digest
        else "captured_numel" not in facts,
        "all_finite": isinstance(facts.get("all_finite"), bool) if has_digest else "all_finite" not in facts,
        "summary": _is_summary(facts.get("summary")) if mode == "summary" else "summary" not in facts,
    }
    _raise_unless(wanted, facts, "tensor.")
    indices = list(samples_of(numel, captured)) if mode == "sampled" else None
    _raise_unless(
        {
            "captured_numel": mode != "full" or captured == numel,
            "sample_indices": facts.get("sample_indices") == indices
            if mode == "sampled"
            else "sample_indices" not in facts,
        },
        facts,
        "tensor.",
    )


def _raise_unless(wanted: Mapping[str, bool], found: Mapping[str, Any], prefix: str) -> None:
    for key, is_as_wanted in wanted.items():
        if not is_as_wanted:
            got = f"got {found[key]!r:.60}" if key in found else "it is missing"
            raise ValueError(f"{prefix}{key}: {got}, which is not of the schema")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_whole(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, int) and value is not True for value in values)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and min(value) >= " "


def _is_summary(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("all_finite"), bool)
        and all(
            key in value and (value[key] is None or isinstance(value[key], (int, float)))
            for key in ("minimum", "maximum", "mean", "l2_norm")
        )
    )


def samples_of(numel: int, captured: int) -> Iterator[int]:
    """Places spread over all elements: ``i*(numel - 1) // (captured - 1)``."""
    return (i * (numel - 1) // max(captured - 1, 1) for i in range(captured))


def sha256_of(facts: Mapping[str, Any], values: NDArray[Any]) -> str:
    """The sha256 of a tensor: of its form as JSON, a zero byte, and the little-endian bytes of its values.

    Args:
        facts: ``dtype``, ``mode``, ``shape`` and, where some values are taken, ``sample_indices``.
        values: those taken, in C order.
    """
    form = json.dumps({**facts, "schema_version": SCHEMA_VERSION}, sort_keys=True, separators=(",", ":"))
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return hashlib.sha256(form.encode() + b"\0" + little.tobytes()).hexdigest()
