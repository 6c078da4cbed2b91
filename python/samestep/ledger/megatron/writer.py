"""Writes one of Megatron-LM's traces."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ...arguments import check_choice, finite_number, number, whole_number
from .schema import SCHEMA_VERSION, check_record, samples_of, sha256_of


@final
class TraceWriter:
    """Writes the trace of one rank while a run goes on, for Megatron's comparison and for ``samestep diff``.

    Args:
        folder: is made if it is not there.
        rank: of the worker.

    Raises:
        FileExistsError: the folder has a trace of this rank.

    Example:
        >>> import numpy as np, tempfile
        >>> from samestep.ledger import megatron
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with megatron.TraceWriter(folder) as trace:
        ...         trace.scalar("loss", 2.5, phase="forward", iteration=1)
        ...         trace.tensor("w", np.ones(2, np.float32), phase="optimizer", iteration=1)
        ...     found = megatron.read_trace(folder)
        >>> [(record["sequence"], record["name"]) for record in found.records()]
        [(0, 'loss'), (1, 'w')]
    """

    def __init__(self, folder: str | os.PathLike[str], rank: int = 0) -> None:
        self._rank = whole_number("rank", rank, at_least=0)
        os.makedirs(folder, exist_ok=True)
        self._file = open(Path(folder) / f"rank_{rank:06d}.jsonl", "xb", buffering=0)  # noqa: SIM115
        self._sequence = 0
        self._occurrences: Counter[tuple[Any, ...]] = Counter()

    def event(self, name: str, fields: Mapping[str, Any], **when: Any) -> None:
        """Writes that something happened.

        Args:
            name: of the event, at most 512 characters.
            fields: what JSON can hold.
            when: ``phase``, a text; ``iteration`` and ``microbatch``, whole numbers or None.
        """
        self._write("event", name, {"fields": dict(fields)}, **when)

    def scalar(self, name: str, value: float, **when: Any) -> None:
        """Writes a number, such as the loss; NaN and the infinities by their names."""
        x = number("value", value)
        if math.isfinite(x):
            self.event(name, {"value": finite_number("value", value)}, **when)
        else:
            told = "nan" if math.isnan(x) else "+inf" if x > 0 else "-inf"
            self.event(name, {"finite": False, "nonfinite": told, "value": None}, **when)

    def tensor(
        self,
        name: str,
        x: NDArray[Any],
        *,
        mode: str = "full",
        samples: int = 16,
        requires_grad: bool = False,
        metadata: Mapping[str, Any] | None = None,
        **when: Any,
    ) -> None:
        """Writes an array's form and the sha256 of its values.

        Args:
            name: of the tensor.
            x: the array.
            mode: "full": of all values; "sampled": of some; "metadata": the form alone.
            samples: how many values are taken at most, for "sampled".
            requires_grad: as torch says of it.
            metadata: what JSON can hold.
            when: as for ``event``.
        """
        check_choice("mode", mode, ("metadata", "sampled", "full"))
        facts: dict[str, Any] = {
            "mode": mode,
            "shape": list(x.shape),
            "numel": x.size,
            "dtype": x.dtype.name,
            "layout": "strided",
            "device_type": "cpu",
            "requires_grad": bool(requires_grad),
            "stride": [stride // x.itemsize for stride in x.strides],
            "value_observed": mode != "metadata",
            "exact_value_certificate": mode == "full",
        }
        if mode != "metadata":
            flat = np.ascontiguousarray(x).reshape(-1)
            hashed = {key: facts[key] for key in ("dtype", "mode", "shape")}
            if mode == "sampled":
                n = min(x.size, whole_number("samples", samples, at_least=1))
                facts["sample_indices"] = hashed["sample_indices"] = list(samples_of(x.size, n))
                flat = flat[facts["sample_indices"]]
            facts["captured_numel"] = flat.size
            facts["all_finite"] = bool(np.isfinite(flat).all())
            facts["sha256"] = sha256_of(hashed, flat)
        self._write("tensor", name, {"metadata": dict(metadata or {}), "tensor": facts}, **when)

    def close(self) -> None:
        """Ends the file."""
        self._file.close()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(
        self,
        event: str,
        name: str,
        content: Mapping[str, Any],
        *,
        phase: str,
        iteration: int | None = None,
        microbatch: int | None = None,
    ) -> None:
        key = (iteration, microbatch, phase, event, name)
        record = {
            "schema_version": SCHEMA_VERSION,
            "rank": self._rank,
            "sequence": self._sequence,
            "occurrence": self._occurrences[key],
            "iteration": iteration,
            "microbatch": microbatch,
            "phase": phase,
            "name": name,
            "event": event,
            **content,
        }
        check_record(record, self._rank)
        line = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
        self._file.write(f"{line}\n".encode())
        self._occurrences[key] += 1
        self._sequence += 1
