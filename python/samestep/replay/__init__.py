"""Recomputes what a ledger records, on this machine, and says whether it is what it claims."""

from .files import optimizer_at, read_arrays
from .script import Rerun, ScriptError, run_script
from .steps import Verdict, replay

__all__ = ["Rerun", "ScriptError", "Verdict", "optimizer_at", "read_arrays", "replay", "run_script"]
