"""Checkpoints: an optimizer's state in one safetensors file, whole or not at all. Nothing is pickled.

The file holds each state array in C order under ``<state>.<index>`` and, in its metadata, ``samestep``:
everything else as JSON, and ``sha256`` over both, which ``read`` checks. State may be larger than main
memory: it is written piece by piece and read where it lies in the file. The format's own library can do
neither, so this module writes and reads the format itself.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, TypeVar

import numpy as np

from ..backends.arrays import Array
from .owner import Owner
from .param import Param

T = TypeVar("T")
Path = str | os.PathLike[str]

FORMAT = 1

# By the format's names. Types that are not NumPy's own are stored as their bits.
_DTYPES = {
    name: np.dtype(kind) for name, kind in (("F64", "<f8"), ("F32", "<f4"), ("F16", "<f2"), ("U16", "<u2"))
}
_LARGEST_HEADER = 100_000_000  # bytes, as for the format's own library
_PIECE = 1 << 16  # elements that are copied at a time


def write(path: Path, facts: Mapping[str, Any], state: Mapping[str, list[Any]]) -> None:
    """Writes a temporary file in the same folder, syncs it and moves it to ``path``.

    A link stays: what it leads to is replaced. Arrays on a GPU come to main memory one at a time.
    """
    target = pathlib.Path(os.path.realpath(path))
    replaced = _regular_file(target)
    arrays = {f"{name}.{i}": array for name, items in state.items() for i, array in enumerate(items)}
    text = json.dumps({"format": FORMAT, **facts})
    header, in_file = _layout({"samestep": text, "sha256": _digest(text, arrays)}, arrays)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    # The kernel takes the umask from the mode of a new file. What replaces one is private until it is whole.
    mode = 0o666 if replaced is None else 0o600
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(handle, "wb") as file:
            file.write(header)
            for name in in_file:
                for piece in _pieces(arrays[name]):
                    file.write(piece.data)
            if replaced is not None:
                _copy_permissions(handle, replaced)
        sync(temporary)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync(target.parent)


def facts_of(optimizer: Owner) -> dict[str, Any]:
    """What a checkpoint says besides the state dict: the class, its arguments and the parameters."""
    hyper = {  # a schedule is replaced by the value that it has come to
        name: _apart_from_0(optimizer.groups[0][name]) if callable(value) else value
        for name, value in optimizer._default_hyper.items()
    }
    initial = optimizer._store.initial
    return {
        "class": type(optimizer).__name__,
        "module": type(optimizer).__module__,
        "made_with": {
            "form": optimizer.form,
            "variant": optimizer.variant,
            "initial": initial,
            "hyper": hyper,
        },
        "params": [[param.array.dtype.name, list(param.array.shape)] for param in optimizer._params],
    }


def _apart_from_0(value: float) -> float:
    """A schedule's last value as a constructor accepts it: 0 if float32 does not tell it from 0."""
    return value if value > 2.0**-150 else 0.0


def read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """The facts and the arrays by name, which stay in the file until somebody reads them.

    Raises:
        ValueError: the file is not as ``write`` left it.
    """
    where = os.fspath(path)
    with open(path, "rb") as file:
        try:
            metadata, arrays = _parse(file)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: cut off, altered or not a checkpoint ({error})") from None
    text = metadata.get("samestep")
    if not isinstance(text, str) or "sha256" not in metadata:
        raise ValueError(f"{where}: not a checkpoint of samestep")
    if metadata["sha256"] != _digest(text, arrays):
        raise ValueError(f"{where}: altered since it was saved: its digest does not fit")
    facts = json.loads(text)
    if facts["format"] != FORMAT:
        raise ValueError(f"{where}: of format {facts['format']}, expected {FORMAT}")
    return facts, arrays


def fill(optimizer: Owner, path: Path, facts: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
    """Loads what ``read`` returned into a new optimizer; on an error its state files are removed.

    Raises:
        ValueError, TypeError: the parameters or the state do not fit.
    """
    where = os.fspath(path)
    state = {
        name: [with_dtype(tensors.get(f"{name}.{i}"), like) for i, like in enumerate(arrays)]
        for name, arrays in optimizer.state.items()
    }
    try:
        _check_params(where, optimizer._params, facts.get("params"))
        optimizer.load_state_dict(
            {**{key: facts.get(key) for key in optimizer.state_dict_keys}, "state": state}
        )
    except BaseException as error:
        optimizer._store.remove_files()
        if type(error) is ValueError and where not in str(error):
            raise ValueError(f"{where}: {error}") from None
        raise


def _check_params(path: str, params: Sequence[Param], saved: list[list[Any]] | None) -> None:
    """Raises unless dtypes and shapes are as in the checkpoint; None: it is an old one without them."""
    if saved is None:
        return
    if len(saved) != len(params):
        raise ValueError(f"params: got {len(params)} arrays, expected {len(saved)} as in {path}")
    for param, (dtype, shape) in zip(params, saved, strict=True):
        w = param.array
        if (w.dtype.name, w.shape) != (dtype, tuple(shape)):
            raise ValueError(
                f"{param.name}: got {w.dtype} of shape {w.shape}, expected {dtype} of shape {tuple(shape)} "
                f"as in {path}"
            )


def find_class(base: type[T], path: Path, facts: Mapping[str, Any]) -> type[T]:
    """``base`` or the class derived from it that was saved; of several with its name, that of its module.

    Old checkpoints do not say which module it is.
    """
    name = facts["class"]
    kinds = [base]
    for kind in kinds:  # which grows meanwhile
        kinds += (derived for derived in kind.__subclasses__() if derived not in kinds)
    named = [kind for kind in kinds if kind.__name__ == name]
    if not named:
        raise ValueError(
            f"{os.fspath(path)}: of {name}, expected {base.__name__} or a class derived from it; "
            f"if {name} is one, define or import it before"
        )
    # Defined twice, as in a notebook, the last one counts.
    return ([kind for kind in named if kind.__module__ == facts.get("module")] or named[:1])[-1]


def with_dtype(array: Array | None, like: Array) -> Array | None:
    """An array of the file with the dtype of ``like``: types that safetensors lacks are stored as bits."""
    if array is not None and array.dtype == np.uint16 and like.dtype.itemsize == 2:
        return array.view(like.dtype)
    return array


def _layout(metadata: Mapping[str, str], arrays: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    """What stands before the data, and the names in the order of the data."""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    # The widest first, so that each array lies on a multiple of its element's size.
    in_file = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    entries: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in in_file:
        a = arrays[name]
        begin, end = end, end + a.nbytes
        entries[name] = {
            "dtype": names[_stored(a.dtype)],
            "shape": list(a.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, in_file


def _parse(file: IO[bytes]) -> tuple[dict[str, Any], dict[str, Array]]:
    """The metadata and the arrays of an open file; any of the usual errors if it is not of the format."""
    size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
    if length > min(size - 8, _LARGEST_HEADER):
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    entries = json.loads(file.read(length))
    metadata = entries.pop("__metadata__", {})
    data: Array = np.zeros(0, np.uint8)
    if size > 8 + length:  # nothing cannot be mapped
        data = np.asarray(np.memmap(file, np.uint8, "r", 8 + length))
    arrays, at = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        if begin != at:
            raise ValueError(f"{name} begins at byte {begin}, expected {at}")
        arrays[name] = data[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        at = end
    if at != data.size:
        raise ValueError(f"{data.size} bytes of arrays, expected {at}")
    return metadata, arrays


def _stored(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype("<u2") if dtype.kind == "V" else dtype.newbyteorder("<")


def _pieces(array: Any) -> Iterator[Array]:
    """The elements as the file has them, in C order; a piece is valid until the next is requested."""
    here = array if isinstance(array, np.ndarray) else array.get()
    bits = here.view(np.uint16) if here.dtype.kind == "V" else here
    yield from np.nditer(
        bits,
        ("external_loop", "buffered", "zerosize_ok"),
        op_dtypes=[_stored(bits.dtype)],
        order="C",
        casting="equiv",
        buffersize=_PIECE,
    )


def _digest(text: str, arrays: Mapping[str, Any]) -> str:
    sha = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(f"{name} {_stored(array.dtype).name} {array.shape}".encode())
        for piece in _pieces(array):
            sha.update(piece.data)
    return sha.hexdigest()


def _regular_file(target: pathlib.Path) -> os.stat_result | None:
    """The facts of the file that is to be replaced, None if there is none; else an error as of ``open``."""
    try:
        found = target.stat()  # a link that leads back to itself is an OSError
    except FileNotFoundError:
        target.parent.stat()
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(
            f"path: {target} is a device, pipe or socket, expected a file, which can be replaced"
        )
    return found


def _copy_permissions(handle: int, replaced: os.stat_result) -> None:
    """Gives a new file the group, permissions and owner of the one that it replaces, as far as it may."""
    if not hasattr(os, "chown"):  # Windows, where a new file has the permissions of its folder
        return
    mode = replaced.st_mode & 0o777
    try:
        os.chown(handle, -1, replaced.st_gid)
    except OSError:  # it stays with a group of this process, which may do no more than anybody
        mode = (mode & 0o707) | (mode & 0o007) << 3
    os.chmod(handle, mode)
    with contextlib.suppress(OSError):
        os.chown(handle, replaced.st_uid, -1)


def sync(path: pathlib.Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    flags = os.O_RDONLY
    if sys.platform == "win32":  # which syncs what it may write, and opens no folder
        if path.is_dir():
            return
        flags = os.O_RDWR
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
