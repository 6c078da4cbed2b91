"""minimize(): a problem, an optimizer and a stopping rule make a run."""

from ..result import Result
from .loop import minimize

__all__ = ["Result", "minimize"]
