"""Packages that samestep does not depend on: imported where they are used, or an error that names the fix."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, purpose: str, *extras: str) -> Any:
    """Imports an optional module.

    Args:
        module: its import name, e.g. ``"sklearn.datasets"``.
        purpose: what it is needed for, for the error message.
        extras: the extras of samestep that install it, of which one is enough, for the error message;
            "demo" if none is named.

    Returns:
        The module.

    Raises:
        ImportError: it cannot be imported. The message names the purpose and the command that installs it.

    Example:
        >>> from samestep.optional import require
        >>> require("json", "a round trip").loads("[1, 2]")
        [1, 2]
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        choices = " or ".join(f"'samestep[{extra}]'" for extra in extras or ("demo",))
        raise ImportError(
            f"{purpose} needs {package}, which cannot be imported here ({error}); "
            f"install it with: pip install {choices}"
        ) from error
