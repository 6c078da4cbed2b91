"""How values become a line and a line becomes a sha256: in one way, so that equal runs have equal bytes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

NONE = "-"  # in the place of a gradient that there is not


def to_json(value: Any) -> str:
    """The JSON of a line or of a part of it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def from_json(text: bytes) -> Any:
    """The value of a line.

    Raises:
        ValueError: it is no JSON, of which NaN, the infinities and halves of letters are no part.
    """
    try:
        value = _DECODER.decode(text.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if b"\\u" in text:
        to_json(value).encode()  # UnicodeEncodeError, a ValueError: a half of a letter
    return value


def as_text(entry: Sequence[str | None] | None) -> str | None:
    """An entry as it stands in a line: its fingerprints with blanks between, a dash where there is none."""
    return None if entry is None else " ".join(value or NONE for value in entry)


def digest_of(line: bytes) -> str:
    """sha256 of a line without its end."""
    return hashlib.sha256(line).hexdigest()


def finite(text: str) -> float:
    """A number as JSON has it.

    Raises:
        ValueError: it is NaN or infinite.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


_DECODER = json.JSONDecoder(parse_constant=finite, parse_float=finite)
