"""What a replay starts from: an optimizer and its parameters as they were, and gradients, out of files."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from typing import Any

import numpy as np

from ..backends.arrays import Array
from ..ledger.records import Path, Records
from ..optim import checkpoint
from ..optim.optimizer import Optimizer
from ..optional import require


def optimizer_at(ledger: Records, state: Path, params: Path, *, backend: str = "auto") -> Optimizer:
    """An optimizer as it was when it was saved, over copies of parameters from a file.

    Args:
        ledger: whose tensors these are.
        state: what ``optimizer.save`` wrote.
        params: the parameters at that time: a file for ``read_arrays``.
        backend: "auto" or "cpu", "reference", or "cuda", which copies them to the current GPU.

    Raises:
        OSError, TypeError, ValueError: a file cannot be read, is altered, or does not fit the ledger.
    """
    groups: dict[int, list[Any]] = {}
    found = read_arrays(ledger, params)
    for (name, tensor), array in zip(ledger.header.tensors.items(), found, strict=True):
        if array is None:
            raise ValueError(f"params: {os.fspath(params)} lacks {name}, expected every tensor recorded")
        groups.setdefault(tensor["group"], []).append(array.copy())
    if backend == "cuda":
        cupy = require("cupy", "backend='cuda'", "cuda")
        groups = {i: [cupy.asarray(w) for w in arrays] for i, arrays in groups.items()}
    found_groups = [groups[i] for i in sorted(groups)]
    given: Any = found_groups[0] if len(groups) == 1 else [{"params": group} for group in found_groups]
    return Optimizer.load(state, given, backend=backend)


def read_arrays(ledger: Records, path: Path) -> list[Array | None]:
    """One array for each tensor of a ledger from a file, None for those that it lacks.

    Args:
        ledger: whose tensors these are.
        path: ``.npz`` (``numpy.savez``) or ``.safetensors``. An array goes by the name of its tensor in the
            ledger, such as ``params['w']``, by ``w`` alone, or by its number in the ledger, from 0 on, also
            as ``arr_0``, which ``numpy.savez`` has.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is of another kind or damaged, has an array that is no tensor's, or one of another
            shape or dtype.
    """
    where = os.fspath(path)
    found = _file_arrays(where)
    arrays: list[Array | None] = []
    for i, (name, tensor) in enumerate(ledger.header.tensors.items()):
        keys = [key for key in (name, _short_name(name), str(i), f"arr_{i}") if key in found]
        array = found.pop(keys[0]) if keys else None
        if array is not None:
            like = np.empty(0, _dtype_of(tensor["dtype"]))
            array = checkpoint.with_dtype(array.view(np.uint16) if array.dtype.kind == "V" else array, like)
            assert array is not None
            if (array.dtype, list(array.shape)) != (like.dtype, tensor["shape"]):
                raise ValueError(
                    f"{where}: got {array.dtype} of shape {array.shape} for {name}, expected {like.dtype} of "
                    f"shape {tuple(tensor['shape'])} as in the ledger"
                )
        arrays.append(array)
    if found:
        names = ", ".join(ledger.header.tensors)
        raise ValueError(f"{where}: got the array {next(iter(found))!r}, expected some of {names}")
    return arrays


def _file_arrays(path: str) -> dict[str, Array]:
    if path.endswith(".npz"):
        with open(path, "rb") as file:
            try:
                return dict(np.load(file))
            except (TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(f"{path}: cut off, altered or no .npz file ({error})") from None
    if path.endswith(".safetensors"):
        safetensors = require("safetensors", "reading .safetensors")
        numpy = require("safetensors.numpy", "reading .safetensors")
        try:
            return dict(numpy.load_file(path))
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path}: cut off, altered or no .safetensors file ({error})") from None
    raise ValueError(f"{path}: expected a file whose name ends in .npz or .safetensors")


def _short_name(name: str) -> str:
    """Of ``params['w']`` w, of ``params[3]`` 3; other names as they are."""
    return re.sub(r"^params\[['\"]?(.*?)['\"]?\]$", r"\1", name)


def _dtype_of(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        name = require("ml_dtypes", "bfloat16", "bfloat16").bfloat16
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype
