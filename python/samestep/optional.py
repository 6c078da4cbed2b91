"""Packages that samestep can do without: fetched where they are used, missed with the fix at hand."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, purpose: str, extra: str = "demo") -> Any:
    """The module of that name, imported now.

    Args:
        module: its import name, e.g. ``"sklearn.datasets"``.
        purpose: what it is needed for; the error message says it.
        extra: the extra of samestep that installs it; likewise.

    Raises:
        ImportError: it is not installed.

    Example:
        >>> from samestep.optional import require
        >>> require("json", "a round trip").loads("[1, 2]")
        [1, 2]
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{purpose} needs {package}, which cannot be imported here ({error}); "
            f"install it with: pip install 'samestep[{extra}]'"
        ) from error
