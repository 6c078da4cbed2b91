"""Checkpoints of sharded optimizers: a folder with a file from each worker and one that names them.

``manifest.json`` has the facts and the names of the files. It is written once all of these are whole, and
moved into place: whatever stops a worker, the folder holds the old checkpoint or the new one. Each file has,
as optim/checkpoint.py writes it, the elements of parameters and state that its worker steps, and which.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from ..backends.arrays import Array
from ..optim import checkpoint as files
from ..optim.optimizer import Optimizer
from ..optim.state_dict import check_state_dict, facts_of
from .groups import Group
from .leaf_sums import LeafSums
from .parts import Parts

FORMAT = 1
MANIFEST = "manifest.json"


class HasParts(Protocol):
    """What of a ``Sharded`` is saved."""

    optimizer: Optimizer
    _group: Group
    _parts: Parts
    _leaf_sums: LeafSums

    @property
    def params(self) -> list[Array]: ...


def save(sharded: HasParts, path: str | os.PathLike[str]) -> None:
    """Writes this worker's file, and on worker 0 the manifest."""
    group, folder = sharded._group, pathlib.Path(path)
    optimizer, parts = sharded.optimizer, sharded._parts
    token = group.all_gather_json(secrets.token_hex(4))[0]
    names = [f"{token}-{rank}-of-{group.size}.safetensors" for rank in range(group.size)]
    own = folder / names[group.rank]
    try:
        with _told_to_all(group):
            folder.mkdir(parents=True, exist_ok=True)
            pieces = [[piece.begin, piece.end] for piece in parts.pieces]
            files.write(own, {"pieces": pieces}, {"param": parts.cut(sharded.params), **optimizer.state})
        with _told_to_all(group):
            if group.rank == 0:
                params = [[w.dtype.name, list(w.shape)] for w in sharded.params]
                facts = {"format": FORMAT, "files": names, "params": params, **facts_of(optimizer)}
                _replace(folder / MANIFEST, json.dumps(facts))
    except BaseException:
        with contextlib.suppress(OSError):
            if not (folder / MANIFEST).is_file() or token not in (folder / MANIFEST).read_text(
                encoding="utf-8"
            ):
                own.unlink()
        raise
    if group.rank == 0:
        for old in folder.glob("????????-*-of-*.safetensors"):
            if old.name not in names:
                old.unlink(missing_ok=True)


def load(sharded: HasParts, path: str | os.PathLike[str]) -> None:
    """Takes over parameters and state of this worker from the files of however many wrote them."""
    group, folder = sharded._group, pathlib.Path(path)
    optimizer, parts = sharded.optimizer, sharded._parts
    with _told_to_all(group):
        facts = _read_manifest(folder)
        expected = [[w.dtype.name, list(w.shape)] for w in sharded.params]
        if facts["params"] != expected:
            raise ValueError(f"params: got arrays {expected}, expected {facts['params']} as in {folder}")
        params = [np.empty_like(w) for w in sharded.params]
        state = {name: [np.empty_like(a) for a in own] for name, own in optimizer.state.items()}
        here = [0] * len(params)
        for name in facts["files"]:
            found, tensors = files.read(folder / name)
            for i, (begin, end) in enumerate(found["pieces"]):
                _fill(params[i].reshape(-1), 0, tensors[f"param.{i}"], begin)
                here[i] += end - begin
                for of, own in state.items():
                    _fill(own[i], parts.pieces[i].begin, tensors.get(f"{of}.{i}"), begin)
        if here != [w.size for w in params]:
            raise ValueError(f"{folder}: the files hold {here} elements, expected all")
        state_dict = {**{key: facts.get(key) for key in optimizer.state_dict_keys}, "state": state}
        check_state_dict(optimizer, state_dict)
    optimizer.load_state_dict(state_dict)
    for w, new in zip(sharded.params, params, strict=True):
        w[...] = new
    sharded._leaf_sums.start()


@contextlib.contextmanager
def _told_to_all(group: Group) -> Iterator[None]:
    """An error of one worker is raised on all."""
    error: Exception | None = None
    try:
        yield
    except Exception as found:
        error = found
    group.all_or_none(error)


def _read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        known = facts["format"] == FORMAT and isinstance(facts["files"], list)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / MANIFEST}: cut off, altered or not a checkpoint ({error})") from None
    if not known:
        raise ValueError(f"{folder / MANIFEST}: of format {facts['format']}, expected {FORMAT}")
    return facts


def _fill(to: Array, to_begin: int, values: Array | None, begin: int) -> None:
    """Copies what two runs of elements share: ``to`` from element ``to_begin``, ``values`` from ``begin``."""
    values = files.with_dtype(values, to)
    if values is None or values.dtype != to.dtype:
        raise ValueError(f"state: got {values if values is None else values.dtype}, expected {to.dtype}")
    first, last = max(begin, to_begin), min(begin + values.size, to_begin + to.size)
    if first < last:
        to[first - to_begin : last - to_begin] = values[first - begin : last - begin]


def _replace(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
