"""How values become a line and a line becomes a sha256: in one way, so that equal runs have equal bytes."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NoReturn


def to_json(value: Any) -> str:
    """The JSON of a line or of a part of it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def from_json(text: bytes) -> Any:
    """The value of a line.

    Raises:
        ValueError: it is no JSON; NaN and the infinities are none.
    """
    try:
        return _DECODER.decode(text.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def digest_of(line: bytes) -> str:
    """sha256 of a line without its end."""
    return hashlib.sha256(line).hexdigest()


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
