"""Checkpoints: an optimizer's state in one safetensors file, whole or not at all. Nothing is pickled.

The file holds each state array in C order under ``<state>.<index>`` and, in its metadata, ``samestep``:
everything else as JSON, and ``sha256`` over both, which ``read`` holds against what it finds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from .arrays import Array
from .optional import require

Path = str | os.PathLike[str]

FORMAT = 1


def write(path: Path, facts: Mapping[str, Any], state: Mapping[str, list[Array]]) -> None:
    """Writes a temporary file in the same folder, syncs it and moves it to ``path``."""
    save_file = require("safetensors.numpy", "saving a checkpoint", "checkpoint").save_file
    target = pathlib.Path(path)
    tensors = {
        f"{name}.{i}": _storable(array) for name, arrays in state.items() for i, array in enumerate(arrays)
    }
    text = json.dumps({"format": FORMAT, **facts})
    metadata = {"samestep": text, "sha256": _digest(text, tensors)}
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        save_file(tensors, temporary, metadata=metadata)
        temporary.chmod(_mode_of(target))
        _sync(temporary)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync(target.parent)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """The facts and the arrays by name; ValueError if the file is not as ``write`` left it."""
    safetensors = require("safetensors", "loading a checkpoint", "checkpoint")
    pathlib.Path(path).stat()  # a missing file is FileNotFoundError
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise ValueError(f"{os.fspath(path)}: cut off, altered or not a checkpoint ({error})") from None
    if "samestep" not in metadata or "sha256" not in metadata:
        raise ValueError(f"{os.fspath(path)}: not a checkpoint of samestep")
    if metadata["sha256"] != _digest(metadata["samestep"], tensors):
        raise ValueError(f"{os.fspath(path)}: altered since it was saved: its digest does not fit")
    facts = json.loads(metadata["samestep"])
    if facts["format"] != FORMAT:
        raise ValueError(f"{os.fspath(path)}: of format {facts['format']}, expected {FORMAT}")
    return facts, tensors


def restore(array: Array | None, like: Array) -> Array | None:
    """An array of the file with the dtype of ``like``: types that safetensors lacks are stored as bits."""
    if array is not None and array.dtype == np.uint16 and like.dtype.itemsize == 2:
        return array.view(like.dtype)
    return array


def _storable(array: Array) -> Array:
    """In C order; types that are not NumPy's own as their bits."""
    dense = np.asarray(array, order="C")
    return dense.view(np.uint16) if dense.dtype.kind == "V" else dense


def _digest(text: str, tensors: Mapping[str, Array]) -> str:
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = tensors[name]
        sha.update(f"{name} {array.dtype.name} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def _mode_of(target: pathlib.Path) -> int:
    """The permissions of the file that is replaced, else those of any new file."""
    with contextlib.suppress(FileNotFoundError):
        return target.stat().st_mode & 0o777
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def _sync(path: pathlib.Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
