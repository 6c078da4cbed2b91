"""A script that is run again up to one of its steps, to look at its arrays there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import numpy as np

from ..backends.arrays import Array
from ..optional import require

VARIABLE = "SAMESTEP_REPLAY"  # of the environment: set while a script is run again


@dataclass(frozen=True)
class Watch:
    """What to do with the ledgers of a script.

    Attributes:
        folder: where they are written, in place of where the script says.
        name: of the file of the ledger that is looked at.
        step: of that one, after which the script ends, and of which the arrays are written beside the ledger.
    """

    folder: str
    name: str
    step: int

    def environment(self) -> dict[str, str]:
        """The environment in which a script is run."""
        return {**os.environ, VARIABLE: json.dumps(asdict(self))}

    def path(self, path: str) -> str:
        """Where a ledger goes that is recorded to ``path``."""
        return os.path.join(self.folder, os.path.basename(path))

    def ends_at(self, path: str, step: int) -> bool:
        """Whether the script ends after this step of the ledger at ``path``."""
        return step == self.step and os.path.basename(path) == self.name

    def end(self, path: str, kinds: Sequence[str], tensors: Mapping[str, Sequence[Any]]) -> NoReturn:
        """Writes the arrays of the step, of each tensor one for each kind, and ends the script."""
        arrays = {
            f"{name} {kind}": a
            for name, values in tensors.items()
            for kind, a in zip(kinds, values, strict=True)
            if a is not None
        }
        np.savez(f"{path}.npz", **arrays)
        raise SystemExit(0)


def arrays_of(path: str, name: str, kind: str) -> Array | None:
    """One array that a script left behind which recorded to ``path``; None: the tensor had no gradient."""
    with np.load(f"{path}.npz") as file:
        found: Array | None = file.get(f"{name} {kind}")
    if found is not None and found.dtype.kind == "V":  # to NumPy's files bfloat16 is 16 bits of any kind
        found = found.view(require("ml_dtypes", "bfloat16", "bfloat16").bfloat16)
    return found


def watch_of_environment() -> Watch | None:
    """None unless this process is a script that is run again."""
    text = os.environ.get(VARIABLE)
    return None if text is None else Watch(**json.loads(text))
