"""How every command prints: JSON that every parser reads, and text in what the terminal can show."""

from __future__ import annotations

import json
import math
import os
from typing import Any, TextIO

from .render import Style


def print_json(value: dict[str, Any]) -> None:
    print(json.dumps(jsonable(value), indent=2, allow_nan=False))


def jsonable(value: Any) -> Any:
    """The value with None, JSON's null, for infinity and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {str(name): jsonable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def style_of(stream: TextIO) -> Style:
    try:
        "µβ√─▁".encode(stream.encoding)
        unicode = True
    except UnicodeEncodeError:
        unicode = False
    color = stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return Style(color=color, unicode=unicode)
