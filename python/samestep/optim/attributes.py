"""Which attributes of an optimizer can be set."""

from __future__ import annotations

from .owner import Owner

# What the plan, the state and the checkpoints were made by: a new value would change some of them, or none.
MADE_WITH = ("form", "variant", "rule", "backend", "options", "groups")


def check_attribute(optimizer: Owner, name: str) -> None:
    """Raises AttributeError for a name that no class knows, or what the optimizer was made with.

    An unknown name is most likely a hyper-parameter of another optimizer or a misspelt one, which would
    change nothing. A class derived elsewhere may have attributes of its own.
    """
    kind = type(optimizer)
    if name in MADE_WITH:
        raise AttributeError(f"{name}: an optimizer keeps the one that it was made with; make another")
    known = name.startswith("_") or hasattr(kind, name) or name in vars(optimizer)
    if not known and kind.__module__.startswith("samestep."):
        raise AttributeError(
            f"{name}: {kind.__name__} has none, expected one of {', '.join(optimizer._default_hyper)}"
        )
