"""For tests of samestep.torch on GPUs: tensors of main memory are taken to lie on one."""

from __future__ import annotations

import sys
from typing import Any

STREAM = 77


class Place:
    """Where tensors are taken to lie, by their shapes."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[int, ...], int | None] = {}
        self.of_others: int | None = None
        self.stream, self.is_capturing = STREAM, False
        self.log: list[Any] = []  # what concerns who waits for whom
        self.events = 0

    def install(self, patch):
        """Has samestep.torch go by it; ``patch``: pytest's monkeypatch."""
        import samestep.torch.gpu
        from samestep.torch import launching

        for name, module in list(sys.modules.items()):
            if name.startswith("samestep.torch.") and hasattr(module, "gpu_of"):
                patch.setattr(module, "gpu_of", self.gpu_of)
        for module in (samestep.torch.gpu, launching):
            patch.setattr(module, "current_stream", lambda number: self.stream + number)
            patch.setattr(module, "is_capturing", lambda number: self.is_capturing)
            patch.setattr(module, "on_gpu", self.on_gpu)
        patch.setattr(launching, "note_event", self.note_event)

    def gpu_of(self, tensor):
        return self.numbers.get(tuple(tensor.shape), self.of_others)

    def on_gpu(self, tensor, number):
        self.log.append(("copied to", number))
        return tensor.float()

    def note_event(self, number):
        self.events += 1
        self.log.append(("noted", self.events))
        return Event(self.log, self.events)


class Event:
    """Of torch's: something on a stream has run."""

    def __init__(self, log: list[Any], number: int) -> None:
        self._log, self._number = log, number

    def synchronize(self) -> None:
        self._log.append(("waited for", self._number))
