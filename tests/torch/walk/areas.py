"""The areas of the walk, in the order of the table; importing one registers its cases."""

from __future__ import annotations

import importlib
import importlib.util

from .cases import CASES, Case

TITLES = {
    "nn_utils": "torch.nn.utils",
}


def cases() -> list[Case]:
    for area in TITLES:
        importlib.import_module(f"{__package__}.{area}")
    return CASES
