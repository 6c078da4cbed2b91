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
import re
import secrets
from typing import Any, Protocol

import numpy as np

from ..backends.arrays import Array
from ..optim import checkpoint as files
from ..optim.optimizer import Optimizer
from ..optim.param import check_layouts
from ..optim.state_dict import check_state_dict, facts_of
from ..spread import do_together
from .groups import Group, WorkerLost
from .leaf_sums import LeafSums
from .parts import Parts

FORMAT = 1
MANIFEST = "manifest.json"

# The names of our files, whole ones and temporary ones: no other file in the folder is ever removed.
_FILE = r"[0-9a-f]{8}-[0-9]+-of-[0-9]+\.safetensors"
_OURS = re.compile(rf"{_FILE}|\.({_FILE}|manifest\.json)\.[0-9a-f]{{8}}\.tmp")


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
    group, optimizer = sharded._group, sharded.optimizer
    token = group.all_gather_json(secrets.token_hex(4))[0]
    names = [f"{token}-{rank}-of-{group.size}.safetensors" for rank in range(group.size)]
    written: list[pathlib.Path] = []

    def write_own() -> None:
        folder = pathlib.Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        pieces = [[piece.begin, piece.end] for piece in sharded._parts.pieces]
        tensors = {"param": sharded._parts.cut(sharded.params), **optimizer.state}
        written.append(folder / names[group.rank])
        files.write(written[0], {"pieces": pieces}, tensors)

    def write_manifest() -> None:
        if group.rank:
            return
        folder = pathlib.Path(path)
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"path: {folder} has no {missing[0]} here on worker 0, expected one folder, given alike on "
                "all workers, that all reach"
            )
        params = [[w.dtype.name, list(w.shape)] for w in sharded.params]
        facts = {"format": FORMAT, "files": names, "params": params, **facts_of(optimizer)}
        _replace(folder / MANIFEST, json.dumps(facts))

    try:
        do_together(group, write_own)
        do_together(group, write_manifest)
    except WorkerLost:
        raise  # the manifest may be there all the same, and names this file
    except Exception:  # raised on all: there is none
        for own in written:
            with contextlib.suppress(OSError):
                own.unlink()
        raise
    if group.rank == 0:
        _remove_older(pathlib.Path(path), names)


def _remove_older(folder: pathlib.Path, names: list[str]) -> None:
    """Removes files of other checkpoints, and what saves that were broken off have left."""
    with contextlib.suppress(OSError):  # the new checkpoint is whole without it
        files.sync(folder)  # else the old manifest could come back after a power cut, without its files
        for found in folder.iterdir():
            if _OURS.fullmatch(found.name) and found.name not in names:
                found.unlink(missing_ok=True)


def load(sharded: HasParts, path: str | os.PathLike[str]) -> None:
    """Takes over parameters and state of this worker from the files of however many wrote them."""
    optimizer, parts = sharded.optimizer, sharded._parts

    def read() -> tuple[list[Array], dict[str, Any]]:
        folder = pathlib.Path(path)
        facts = _read_manifest(folder)
        expected = [[w.dtype.name, list(w.shape)] for w in sharded.params]
        if facts["params"] != expected:
            raise ValueError(f"params: got arrays {expected}, expected {facts['params']} as in {folder}")
        params = [np.empty(w.shape, w.dtype) for w in sharded.params]
        state = {name: [np.empty(a.shape, a.dtype) for a in own] for name, own in optimizer.state.items()}
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
        check_layouts(optimizer._params)
        check_state_dict(optimizer, state_dict)
        return params, state_dict

    (params, state_dict), _ = do_together(sharded._group, read)
    optimizer.load_state_dict(state_dict)
    for w, new in zip(sharded.params, params, strict=True):
        optimizer._module.assign(w, new)
    sharded._leaf_sums.start()


def _read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        is_known = facts["format"] == FORMAT
        if is_known and not (isinstance(facts["files"], list) and isinstance(facts["params"], list)):
            raise TypeError("files and params are no lists")
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / MANIFEST}: cut off, altered or not a checkpoint ({error})") from None
    if not is_known:
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
