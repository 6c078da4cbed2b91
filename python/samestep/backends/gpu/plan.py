"""The GPU backend: csrc/gpu/kernels.cu, compiled for the GPU at hand and launched through CuPy.

Nothing here imports CuPy before an array on a GPU, or ``backend="cuda"``, asks for it. Kernels run on
CuPy's current stream and nothing waits for them; what returns a Python float does wait. Arrays of other
libraries come by DLPack, which makes that stream wait for theirs. What their library does with them next
it must order itself: on CUDA's default stream, where both work unless told otherwise, it is in order.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import math
import os
import re
import stat
import tempfile
import threading
import warnings
import weakref
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ... import _core
from ..._core import rules
from ...optional import require
from ..arrays import Array, Layout, extents, gradient_error, lives_on_gpu, same_layout
from ..face import STEPPED
from ..options import Options, arguments_of

__all__ = [
    "Mse",
    "Plan",
    "batchnorm_backward",
    "batchnorm_forward",
    "batchnorm_inference",
    "canonical_sum",
    "global_norm",
    "rules",
    "update_running",
]

# The contract's: no fused multiply-add unless written, subnormals kept, division and root rounded once.
# CuPy's own compile step would flush subnormals.
OPTIONS = (
    "--std=c++17",
    "--fmad=false",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
    "--device-as-default-execution-space",
)

THREADS = 256  # of a block; any multiple of 32 up to 1024 gives the same bits
WARP = 32
ITEM = 4096  # elements that a block of threads takes
SUM_BLOCK = 1024  # terms
TILE = 32  # columns that a block of threads sums
PAIRED_ROWS = 1024  # block sums that a block of threads pairs
WORDS = 480  # that one launch of write_words carries


# ---- the device ----


_is_forked = False


@functools.cache
def _cupy() -> Any:
    if _is_forked:
        raise RuntimeError(
            "backend='cuda': this process was forked from one that had used the GPU, and CUDA does not work "
            "here; start it with multiprocessing's method 'spawn'"
        )
    cupy = require("cupy", "backend='cuda'", "cuda12", "cuda13")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f"backend='cuda': CUDA finds no GPU that it can use here ({error}); on a machine with one, "
            "install NVIDIA's driver and, by its version, 'samestep[cuda12]' or 'samestep[cuda13]'"
        ) from error
    return cupy


def _after_fork() -> None:
    global _is_forked
    _is_forked = _is_forked or _cupy.cache_info().currsize > 0
    _cupy.cache_clear()


os.register_at_fork(after_in_child=_after_fork)


def why_not() -> str | None:
    """Why there is no GPU to run on; None if there is one."""
    try:
        _cupy()
    except (ImportError, RuntimeError) as error:
        return str(error)
    return None


def device_name() -> str:
    """Of the current GPU, such as "NVIDIA H200"."""
    cupy = _cupy()
    name: bytes = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"]
    return name.decode()


# ---- arrays ----


def views(named: Mapping[str, Any], written: frozenset[str]) -> list[Any]:
    """CuPy's views of arrays that are on one GPU, whatever library they come from; None stays None."""
    out = [None if a is None else _view(name, a, name in written) for name, a in named.items()]
    first, where = "", None
    for name, a in zip(named, out, strict=True):
        if a is None:
            continue
        if where is None:
            first, where = name, a.device.id
        elif a.device.id != where:
            raise ValueError(
                f"{name}: lives on GPU {a.device.id}, expected GPU {where} as {first}; move it there with "
                f"cupy.asarray under `with cupy.cuda.Device({where}):`"
            )
    return out


def _view(name: str, a: Any, written: bool) -> Any:
    cupy = _cupy()
    if isinstance(a, cupy.ndarray):
        return a
    kind = f"{type(a).__module__}.{type(a).__qualname__}"
    if not lives_on_gpu(a):
        raise TypeError(
            f"{name}: got {kind}, which is not on a GPU, expected an array that is; move it there once, "
            f"for example with cupy.asarray({name})"
        )
    try:
        view, may_write = _shared(a, written)
    except _CANNOT_SHARE as error:
        raise TypeError(
            f"{name}: got {kind}, whose memory cannot be shared ({error}); pass a float32 or float64 array "
            f"that takes no part in automatic differentiation, for torch {name}.detach()"
        ) from error
    if not may_write:
        raise ValueError(f"{name}: the array is read-only; pass a writeable one, such as cupy.array({name})")
    return view


_CANNOT_SHARE = (AttributeError, BufferError, RuntimeError, TypeError, ValueError)
_READ_ONLY, _IS_COPIED = 1, 2  # flags of DLPack
_is_capsule = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer_in = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Export:
    """Another library's array on its way through cupy.from_dlpack, which does not look at the flags."""

    def __init__(self, a: Any) -> None:
        self._a = a
        self.flags = 0  # versions of DLPack before 1 have none: they refuse what is read-only

    def __dlpack_device__(self) -> tuple[int, int]:
        device: tuple[int, int] = self._a.__dlpack_device__()
        return device

    def __dlpack__(self, **how: Any) -> Any:
        capsule, name = self._a.__dlpack__(**how), b"dltensor_versioned"
        if _is_capsule(capsule, name):  # two numbers of the version, two pointers, the flags
            self.flags = ctypes.c_uint64.from_address(_pointer_in(capsule, name) + 24).value
        return capsule


def _shared(a: Any, written: bool) -> tuple[Any, bool]:
    """CuPy's view of another library's array, and whether it may be used so.

    By DLPack, which has CuPy's current stream wait for the library's, or by the CUDA array interface. An
    array whose library names no stream there has its GPU waited for.
    """
    cupy, error = _cupy(), None
    if hasattr(type(a), "__dlpack__"):
        export = _Export(a)
        try:
            view = cupy.from_dlpack(export)
        except _CANNOT_SHARE as raised:  # it may be read-only, or on a stream that it cannot name
            error = raised
        else:
            if not written:
                return view, True
            if export.flags & _IS_COPIED:
                raise BufferError("its library hands out a copy")
            return view, not (export.flags & _READ_ONLY or _is_read_only(a))
    try:
        interface = a.__cuda_array_interface__
        view = cupy.asarray(a)
    except _CANNOT_SHARE as raised:
        raise (error or raised) from None
    if interface.get("version", 0) < 3:
        view.device.synchronize()
    return view, not (written and interface["data"][1])


def _is_read_only(a: Any) -> bool:
    """Whether the CUDA array interface says so: libraries with a DLPack before 1 may leave it at that."""
    try:
        return bool(a.__cuda_array_interface__["data"][1])
    except _CANNOT_SHARE:
        return False


def zeros_like(a: Any, dtype: Any = None) -> Any:
    """Zeros with the layout of ``a``, where it is, and with its dtype if none is given."""
    with a.device:
        return _cupy().zeros_like(a, dtype)


def empty_like(a: Any) -> Any:
    """Memory with the layout of ``a``, where it is."""
    with a.device:
        return _cupy().empty_like(a)


def empty(n: int, dtype: Any, beside: Any) -> Any:
    """Memory for n values, where ``beside`` is."""
    with beside.device:
        return _cupy().empty(n, dtype)


def contiguous(a: Any) -> Any:
    """``a`` itself, or a copy in C order."""
    with a.device:
        return a if a.flags.c_contiguous else a.copy()


def frozen(a: Any) -> Any:
    """A copy in C order; a GPU knows no read-only memory."""
    with a.device:
        return a.copy()


def place(a: Array) -> Any:
    """A copy of a NumPy array on the current GPU."""
    return _cupy().asarray(a)


def to_host(a: Any) -> Array:
    """A copy in main memory; waits for what is under way."""
    host: Array = a.get()
    return host


def assign(to: Any, values: Any) -> None:
    """Overwrites an array with values in main memory, or with one number."""
    with to.device:
        to[...] = _cupy().asarray(values)


# ---- the kernels ----


@functools.cache
def source() -> str:
    """kernels.cu with the headers that it includes, as one text: a hash of it covers them all."""
    folder = resources.files("samestep").joinpath("csrc")
    seen = set()

    def lines(name: str) -> list[str]:
        out = []
        for line in folder.joinpath(name).read_text(encoding="utf-8").splitlines():
            included = re.fullmatch(r'#include "([\w/]+\.h)"', line)
            if included is None:
                out += [] if line.startswith(("#include <", "#pragma once")) else [line]
            elif included[1] not in seen:
                seen.add(included[1])
                out += lines(included[1])
        return out

    return "\n".join(lines("gpu/kernels.cu"))


def text_of(group: str) -> str:
    """What is compiled for a list of kernels, such as ``SUM_KERNELS()``."""
    return f"{source()}\nnamespace samestep {{ {group} }}\n"


def _cache() -> Path:
    """Where compiled kernels are kept: SAMESTEP_CACHE, or the user's folder for such things."""
    own, home = os.environ.get("SAMESTEP_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    try:
        return Path(home or Path.home() / ".cache") / "samestep"
    except RuntimeError:  # neither HOME nor an entry in the list of users
        raise OSError("this user has no home") from None


def _compile(text: str, options: tuple[str, ...]) -> bytes:
    nvrtc = _cupy().cuda.nvrtc
    program = nvrtc.createProgram(text, "samestep.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        code: bytes = nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program)
        raise RuntimeError(f"backend='cuda': the kernels do not compile ({error}):\n{log}") from error
    finally:
        nvrtc.destroyProgram(program)
    return code


# What is kept is run, so it is taken from this user or root alone. The folders above need no look: who puts
# another folder or file in the place of these owns it.


def _is_ours(status: os.stat_result) -> bool:
    """Whether nobody but this user and root can have written there."""
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _folder() -> Path:
    """Where compiled kernels are kept, made if it is not there; OSError says why nothing can be."""
    folder = _cache()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(folder.stat()):
        raise OSError(f"{folder} belongs to another user, or others can write there (chmod go-w)")
    return folder


def _digest(key: str, code: bytes) -> bytes:
    return hashlib.sha256(key.encode() + code).digest()


def _kept(path: Path) -> bytes | None:
    """The code that ``_keep`` wrote there; None if it is another's, torn, or not there."""
    try:
        careful = os.O_NOFOLLOW | os.O_NONBLOCK  # neither follows a link nor waits for a pipe
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | careful)) as file:
            if not _is_ours(os.fstat(file.fileno())):
                return None
            digest, code = file.read(32), file.read()
    except OSError:
        return None
    return code if digest == _digest(path.stem, code) else None


def _keep(path: Path, code: bytes) -> None:
    """All of the file or nothing, also where several processes write it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(_digest(path.stem, code) + code)
            file.flush()
            os.replace(file.name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise


_said_not_kept: set[str] = set()


def _say_not_kept(error: OSError) -> None:
    message = f"compiled kernels are not kept, so that every process compiles them anew: {error}"
    if message not in _said_not_kept:
        _said_not_kept.add(message)
        warnings.warn(f"{message}; name a folder of yours in SAMESTEP_CACHE", RuntimeWarning, stacklevel=2)


def _loaded(code: bytes) -> Any:
    module = _cupy().cuda.function.Module()
    module.load(code)
    return module


@functools.cache
def _module(group: str, device: int) -> Any:
    cupy = _cupy()
    options = (*OPTIONS, f"--gpu-architecture=sm_{cupy.cuda.Device(device).compute_capability}")
    text = text_of(group)
    key = hashlib.sha256(repr((text, options, cupy.cuda.nvrtc.getVersion())).encode()).hexdigest()
    path = None
    try:
        path = _folder() / f"{key}.cubin"
    except OSError as error:
        _say_not_kept(error)
    code = None if path is None else _kept(path)
    if code is not None:
        with contextlib.suppress(RuntimeError):  # compiled anew then
            return _loaded(code)
    code = _compile(text, options)
    try:
        module = _loaded(code)
    except RuntimeError as error:
        raise RuntimeError(
            f"backend='cuda': the GPU's driver does not load the compiled kernels ({error}); it may be older "
            "than CuPy's CUDA: update it, or install the extra of its version, 'samestep[cuda12]' or "
            "'samestep[cuda13]'"
        ) from error
    if path is not None:
        try:
            _keep(path, code)
        except OSError as error:
            _say_not_kept(error)
    return module


@functools.cache
def _kernel(group: str, name: str, device: int) -> Any:
    return _module(group, device).get_function(name)


def _ready(group: str, name: str) -> Any:
    """A kernel of the current device, compiled and loaded if it is the first of its list."""
    return _kernel(group, name, _cupy().cuda.runtime.getDevice())


def _launch(kernel: Any, blocks: int, argument: NDArray[Any]) -> None:
    """On the current device and stream."""
    if blocks:
        kernel((blocks,), (THREADS,), (argument,))


def _run(group: str, name: str, blocks: int, argument: NDArray[Any]) -> None:
    if blocks:
        _launch(_ready(group, name), blocks, argument)


# The kernels' arguments, field by field as in kernels.cu. All fields are of 8 bytes, so that nobody pads.


def _fields(names: str, **formats: str) -> np.dtype[Any]:
    return np.dtype([(name, formats.get(name, "<i8")) for name in names.split()])


COEFFICIENTS = len(_core.coefficients("sgd", np.dtype(np.float32), 1, [1.0]))
# Aligned to 16 bytes: padded at the end.
STEP = _fields(
    "coefficients scale clip_value weight_decay flush rows given items group per_item padding",
    coefficients=f"V{COEFFICIENTS}",
    scale="<f8",
    clip_value="<f8",
    weight_decay="<f8",
)
WORD = np.dtype([("to", "<i8"), ("count", "<i8"), ("words", "<i8", WORDS)])
BLOCK_SUMS = _fields("x outer n inner out")
PAIRS = _fields("sums sets n width stride set_stride")
NORM = _fields(
    "samples channels positions channels_last eps x dy gamma beta var mean inv mean64 var64 dgamma dbeta out "
    "coefficients sums left stride per_block",
    eps="<f8",
)
RUNNING = _fields("mean64 var64 channels values momentum batches mean var", momentum="<f8")
MSE = _fields("Phi y w rows count p factor per_row r sums squares g loss", factor="<f8")
NORM_COEFFICIENTS = 7


def _argument(layout: np.dtype[Any], **values: Any) -> NDArray[Any]:
    """A struct that is handed to a kernel by value; arrays become their addresses."""
    argument = np.zeros(1, layout)
    for name, value in values.items():
        argument[name] = value.data.ptr if hasattr(value, "data") else value
    return argument


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


# ---- rules ----

# The arguments of an optimizer that a step here heeds; groups, schedules and the scale of step() beside them.
SUPPORTED = ("decoupled_weight_decay", "maximize", "clip_value", "flush_subnormals", "copy_grads")


def check_options(options: Options, state_dir: str | None) -> None:
    """Raises ValueError, with its name, for an option that has no kernels here yet."""
    asked = {**arguments_of(options), "state_dir": state_dir}
    for name, absent in {**arguments_of(Options()), "state_dir": None}.items():
        if asked[name] != absent and name not in SUPPORTED:
            raise ValueError(
                f"{name}: got {asked[name]!r}, which is not on the GPU yet; leave it out, or step copies in "
                "main memory with backend='cpu', for example of cupy.asnumpy(params)"
            )


class _Coefficients:
    """What the kernels of one step take, by group of parameters."""

    def __init__(
        self, options: Options, hyper: Sequence[float], weight_decay: list[float], scale: float
    ) -> None:
        self._options = options
        self._n_hyper = len(hyper) // len(weight_decay)
        self._hyper = hyper
        self._weight_decay = weight_decay
        self._scale = -scale if options.maximize else scale

    def enter(self, argument: NDArray[Any], rule: str, dtype: np.dtype[Any], group: int, t: int) -> str:
        """Fills them in for step t; returns which of the rule's kernels it takes."""
        options, decay = self._options, self._weight_decay[group]
        hyper = self._hyper[group * self._n_hyper : (group + 1) * self._n_hyper]
        argument["coefficients"] = np.void(_core.coefficients(rule, dtype, t, hyper, decay))
        argument["scale"], argument["clip_value"] = self._scale, options.clip_value
        argument["weight_decay"] = 0.0 if options.decoupled else decay
        argument["flush"] = options.flush_subnormals
        if options.decoupled and decay != 0.0:
            return "_decoupled"
        asks = self._scale != 1.0 or options.clip_value < math.inf or decay != 0.0 or options.flush_subnormals
        return "_options" if asks else ""


Launch = tuple[Any, int, NDArray[Any]]  # kernel, blocks of threads, argument


class _Tensors:
    """Those parameters of a plan that are of one type, and the tables that their kernel reads."""

    def __init__(
        self,
        rule: str,
        dtype: np.dtype[Any],
        numbers: list[int],
        tensors: list[list[Any]],
        groups: Sequence[int],
    ) -> None:
        cupy = _cupy()
        self._rule = rule
        self._dtype = dtype
        self._numbers = numbers
        self._groups = groups
        rows = [[w.data.ptr, w.size, *(s.data.ptr for s in states)] for w, *states in tensors]
        items = [(i, begin) for i, (w, *_) in enumerate(tensors) for begin in range(0, w.size, ITEM)]
        self._items = len(items)
        # Waited for: a step may come on another stream.
        tables = [np.array(rows, np.int64), np.array(items, np.int64), np.zeros((len(tensors), 2), np.int64)]
        self._tables = [cupy.asarray(table, blocking=True) for table in tables]
        # Address of the gradient, and launch: what the device's table holds, and what it is to hold.
        self._given = tables[2]
        self._wanted = np.zeros_like(self._given)
        names = dict(zip(("rows", "items", "given"), self._tables, strict=True))
        self._argument = _argument(STEP, **names, per_item=ITEM)
        self._firsts: list[int] = []  # of each launch, the number of one parameter

    def take(self, grads: Sequence[Any], steps: NDArray[np.int64]) -> None:
        """Enters the gradients: parameters of one group that have made as many steps share a launch."""
        launches: dict[tuple[int, int], int] = {}
        self._firsts = []
        for row, i in enumerate(self._numbers):
            g = grads[i]
            if g is None:
                self._wanted[row] = 0, -1
                continue
            launch = launches.setdefault((self._groups[i], int(steps[i])), len(launches))
            if launch == len(self._firsts):
                self._firsts.append(i)
            self._wanted[row] = g.data.ptr, launch
        self._write_given()

    def launches(self, steps: NDArray[np.int64], coefficients: _Coefficients) -> list[Launch]:
        """Those of a step of the gradients that were taken, all but launched."""
        out = []
        for launch, first in enumerate(self._firsts):
            t, group = int(steps[first]) + 1, self._groups[first]
            argument = self._argument.copy()
            way = coefficients.enter(argument, self._rule, self._dtype, group, t)
            argument["group"] = launch
            kernels = f"{'OPTION' if way else 'STEP'}_KERNELS({self._rule})"
            kernel = _ready(kernels, f"step_{self._rule}{way}_{self._dtype}")
            out.append((kernel, self._items, argument))
        return out

    def _write_given(self) -> None:
        """Brings the device's table up to date, where it is not: gradients tend to lie where they lay."""
        changed = np.flatnonzero(self._wanted.ravel() != self._given.ravel())
        if changed.size == 0:
            return
        words = self._wanted.ravel()
        for first in range(int(changed[0]), int(changed[-1]) + 1, WORDS):
            count = min(WORDS, int(changed[-1]) + 1 - first)
            argument = _argument(WORD, to=self._tables[2].data.ptr + 8 * first, count=count)
            argument["words"][0, :count] = words[first : first + count]
            _run("WORD_KERNELS()", "write_words", 1, argument)
        self._given[...] = self._wanted


def gradient_views(grads: Sequence[Any], w: Any) -> list[Any]:
    """CuPy's views of gradients of whatever library, as seen from where ``w`` is; None stays None."""
    kind = _cupy().ndarray
    with w.device:
        return [g if g is None or isinstance(g, kind) else _gradient_view(g) for g in grads]


def _gradient_view(g: Any) -> Any:
    """CuPy's view of another library's gradient; what has none is left to whoever says what is wrong."""
    try:
        return _view("grads", g, False)
    except TypeError:
        return g


class _Place(NamedTuple):
    """Where and how a gradient lay when it was last looked at: its shape and strides can be set."""

    address: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, a: Any) -> _Place:
        return cls(a.data.ptr, a.dtype, a.shape, a.strides)

    def is_of(self, a: Any) -> bool:
        """Whether ``a`` lies so still."""
        same = a.data.ptr == self.address and a.shape == self.shape and a.strides == self.strides
        return bool(same and a.dtype == self.dtype)


class Plan:
    """The same face as ``_core.Plan``: a rule bound to a list of arrays, stepped by one launch a type."""

    norm = math.nan  # of all gradients: clip_norm, which wants it, is not on the GPU yet

    def __init__(
        self,
        rule: str,
        params: list[Any],
        states: list[list[Any]],
        steps: NDArray[np.int64],
        options: Options | None = None,
    ) -> None:
        self._options = Options() if options is None else options
        check_options(self._options, None)
        groups = self._options.groups or (0,) * len(params)
        self._weight_decay = [0.0] * (max(groups) + 1)
        self._held = params, states  # the lists below know addresses only
        self._bound = [Layout.of(w) for w in params]
        for state in states:
            for s, w in zip(state, params, strict=True):
                if s.dtype != w.dtype or s.device.id != w.device.id or not same_layout(s, w):
                    raise ValueError("states: expected arrays like the parameters")
        # While a step is launched the first count is below zero, so that every copy of the optimizer, and
        # what is saved of it, tells that the step was interrupted there.
        self._steps = steps
        self._device = params[0].device
        self._kind = _cupy().ndarray
        tensors = [[w, *(s[i] for s in states)] for i, w in enumerate(params)]
        with self._device:
            self._lists = [
                _Tensors(rule, dtype, numbers, [tensors[i] for i in numbers], groups)
                for dtype in dict.fromkeys(w.dtype for w in params)
                if (numbers := [i for i, w in enumerate(params) if w.dtype == dtype and w.size])
            ]
        self._written = extents(a for one in tensors for a in one)
        # Of the last step: weak references to the gradients and how they lay, None where there was none; what
        # it added to the counters, and what these were then.
        self._seen: list[tuple[weakref.ref[Any], _Place] | None] = []
        self._counts = np.zeros_like(steps)
        self._after = steps.copy()
        self._inside: dict[int, bool] = {}  # threads, by their number

    def set_weight_decay(self, weight_decay: list[float]) -> None:
        """One for each group."""
        self._weight_decay = weight_decay

    def step(self, grads: Sequence[Any], hyper: Sequence[float], scale: float = 1.0) -> int:
        """Steps, or returns the number of the first gradient to be looked at more closely.

        Raises:
            RuntimeError: another thread is inside, or an earlier step was interrupted between two launches.
        """
        _cupy()  # or, in a child process, the reason why not
        me = threading.get_ident()
        if me in self._inside:
            raise RuntimeError("step() of this optimizer was called from within it")
        try:  # a signal may raise after any call; the claim goes with the first call of `finally`
            self._inside[me] = True
            if len(self._inside) > 1:
                raise RuntimeError("another thread is inside step() of this optimizer")
            if self._steps[0] < 0:
                raise RuntimeError(
                    "an earlier step was interrupted, so that parameters, states and counts no longer belong "
                    "together; put all of them back, the states with load_state_dict"
                )
            with self._device:
                grads = [g if g is None or isinstance(g, self._kind) else _gradient_view(g) for g in grads]
                if not self._has_seen(grads):
                    for i, g in enumerate(grads):
                        if g is not None and not self._fits(i, g):
                            return i
                    self._seen = []
                    for tensors in self._lists:
                        tensors.take(grads, self._steps)
                    self._counts[:] = [*(g is not None for g in grads), True]
                    self._seen = [None if g is None else (weakref.ref(g), _Place.of(g)) for g in grads]
                coefficients = _Coefficients(self._options, hyper, self._weight_decay, scale)
                # All that may fail comes before the first launch.
                launches = [
                    one for tensors in self._lists for one in tensors.launches(self._steps, coefficients)
                ]
                after = self._steps + self._counts
                self._steps[0] = ~self._steps[0]
                for one in launches:
                    _launch(*one)
            self._steps[:] = after
            self._after[:] = after
        finally:
            self._inside.pop(me, None)
        return STEPPED

    def _has_seen(self, grads: Sequence[Any]) -> bool:
        """Whether these are the very arrays of the last step, and lie as they lay. Counters that others have
        set may call for other groups.
        """
        if len(grads) != len(self._seen) or not np.array_equal(self._steps, self._after):
            return False
        return all(
            g is None if seen is None else g is not None and g is seen[0]() and seen[1].is_of(g)
            for g, seen in zip(grads, self._seen, strict=True)
        )

    def _fits(self, i: int, g: Any) -> bool:
        if not isinstance(g, self._kind) or g.device.id != self._device.id:
            return False
        return gradient_error("", g, self._bound[i], self._written) is None


# ---- canonical sums ----


def _pair(sums: Any, sets: int, n: int, width: int, at_most: int = 1) -> tuple[int, int]:
    """Pairs n rows of sums in each set until `at_most` are left; returns how many, how many rows apart."""
    apart, set_stride = 1, n * width
    while n > at_most:
        runs = _ceil_div(n, PAIRED_ROWS)
        argument = _argument(
            PAIRS, sums=sums, sets=sets, n=n, width=width, stride=apart * width, set_stride=set_stride
        )
        _run("SUM_KERNELS()", "pair_rows", sets * runs * _ceil_div(width, TILE), argument)
        n, apart = runs, apart * PAIRED_ROWS
    return n, apart


def _warps(units: int) -> int:
    """Blocks of threads with a warp for each unit of work."""
    return _ceil_div(units, THREADS // WARP)


def _sum(terms: str, x: Any, outer: int, n: int, inner: int) -> Any:
    cupy = _cupy()
    blocks = _ceil_div(n, SUM_BLOCK)
    if outer * blocks * inner == 0:
        return cupy.zeros(outer * inner, np.float64)
    sums = cupy.empty((outer, blocks, inner), np.float64)
    argument = _argument(BLOCK_SUMS, x=x, outer=outer, n=n, inner=inner, out=sums)
    if inner == 1:
        _run("SUM_KERNELS()", f"sum_runs_{terms}_{x.dtype}", _warps(outer * blocks), argument)
    else:
        grid = outer * blocks * _ceil_div(inner, TILE)
        _run("SUM_KERNELS()", f"sum_columns_{terms}_{x.dtype}", grid, argument)
    _pair(sums, outer, blocks, inner)
    return sums[:, 0, :].copy().reshape(outer * inner)


def canonical_sum(x: Any, outer: int, n: int, inner: int) -> Any:
    """x as (outer, n, inner): the sums over n, on the GPU."""
    with x.device:
        return _sum("values", x, outer, n, inner)


def global_norm(arrays: Sequence[Any]) -> float:
    """The root of the sum of all squares; waits for it."""
    if not arrays:
        return 0.0
    with arrays[0].device:
        sums = _cupy().concatenate([_sum("squares", a, 1, a.size, 1) for a in arrays])
        _pair(sums, 1, len(arrays), 1)
        return math.sqrt(float(sums[:1].get()[0]))


# ---- batch norm ----

Sizes = tuple[int, int, int]


def _norm(x: Any, sizes: Sizes, channels_last: bool, **values: Any) -> NDArray[Any]:
    N, C, S = sizes
    return _argument(
        NORM, x=x, samples=N, channels=C, positions=S, channels_last=channels_last, per_block=ITEM, **values
    )


def _apply(direction: str, x: Any, argument: NDArray[Any]) -> None:
    _run("BATCHNORM_KERNELS()", f"apply_{direction}_{x.dtype}", _ceil_div(x.size, ITEM), argument)


def _statistics_then_apply(direction: str, x: Any, sizes: Sizes, channels_last: bool, **values: Any) -> None:
    cupy = _cupy()
    N, C, S = sizes
    blocks = _ceil_div(N * S, SUM_BLOCK)
    coefficients = cupy.empty(NORM_COEFFICIENTS * C, x.dtype)
    sums = cupy.empty(2 * blocks * C, np.float64)
    argument = _norm(x, sizes, channels_last, coefficients=coefficients, sums=sums, **values)
    tiles = _ceil_div(C, TILE)
    grid = tiles * blocks if channels_last else _warps(C * blocks)
    _run("BATCHNORM_KERNELS()", f"add_blocks_{direction}_{x.dtype}", grid, argument)
    sets, width = (2, C) if channels_last else (2 * C, 1)
    argument["left"], argument["stride"] = _pair(sums, sets, blocks, width, PAIRED_ROWS)
    _run("BATCHNORM_KERNELS()", f"finish_{direction}_{x.dtype}", tiles if channels_last else C, argument)
    _apply(direction, x, argument)


def batchnorm_forward(
    x: Any,
    gamma: Any,
    beta: Any,
    out: Any,
    mean: Any,
    inv: Any,
    mean64: Any,
    var64: Any,
    sizes: Sizes,
    channels_last: bool,
    relu: bool,
    eps: float,
) -> None:
    values = {"gamma": gamma, "beta": beta, "out": out, "mean": mean, "inv": inv, "mean64": mean64}
    with x.device:
        direction = "forward_relu" if relu else "forward"
        _statistics_then_apply(direction, x, sizes, channels_last, **values, var64=var64, eps=eps)


def batchnorm_backward(
    dy: Any,
    x: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    inv: Any,
    out: Any,
    dgamma: Any,
    dbeta: Any,
    sizes: Sizes,
    channels_last: bool,
    relu: bool,
) -> None:
    values = {"dy": dy, "gamma": gamma, "beta": beta, "mean": mean, "inv": inv, "out": out}
    with x.device:
        direction = "backward_relu" if relu else "backward"
        _statistics_then_apply(direction, x, sizes, channels_last, **values, dgamma=dgamma, dbeta=dbeta)


def batchnorm_inference(
    x: Any,
    gamma: Any,
    beta: Any,
    running_mean: Any,
    running_var: Any,
    out: Any,
    sizes: Sizes,
    channels_last: bool,
    relu: bool,
    eps: float,
) -> None:
    values = {"gamma": gamma, "beta": beta, "mean": running_mean, "var": running_var, "out": out}
    direction = "inference_relu" if relu else "inference"
    with x.device:
        coefficients = _cupy().empty(NORM_COEFFICIENTS * sizes[1], x.dtype)
        argument = _norm(x, sizes, channels_last, coefficients=coefficients, **values, eps=eps)
        grid = _ceil_div(sizes[1], THREADS)
        _run("BATCHNORM_KERNELS()", f"prepare_{direction}_{x.dtype}", grid, argument)
        _apply(direction, x, argument)


def update_running(
    running_mean: Any,
    running_var: Any,
    mean64: Any,
    var64: Any,
    values: int,
    momentum: float,
    batches: int,
) -> None:
    channels = running_mean.size
    argument = _argument(
        RUNNING,
        mean64=mean64,
        var64=var64,
        channels=channels,
        values=values,
        momentum=momentum,
        batches=batches,
        mean=running_mean,
        var=running_var,
    )
    with running_mean.device:
        name = f"update_running_{running_mean.dtype}"
        _run("BATCHNORM_KERNELS()", name, _ceil_div(channels, THREADS), argument)


# ---- mean squared error ----


class Mse:
    """The same face as ``_core.Mse``."""

    def __init__(self, Phi: Any, y: Any, factor: float, per_row: bool) -> None:
        self._Phi = Phi
        self._rows, self._columns = Phi.shape  # it can be set later
        self._y = y
        self._factor = factor
        self._per_row = per_row

    def evaluate(self, w: Any, rows: NDArray[np.int64] | None, r: Any | None, g: Any | None) -> Any:
        """Writes residuals and gradient where they are wanted; where neither is, returns the loss."""
        cupy = _cupy()
        Phi = self._Phi
        with Phi.device:
            count, p = self._rows if rows is None else len(rows), self._columns
            indices = None if rows is None else cupy.asarray(rows)
            residuals = cupy.empty(count, Phi.dtype) if r is None else r
            argument = _argument(MSE, Phi=Phi, y=self._y, w=w, count=count, p=p, r=residuals)
            argument["factor"], argument["per_row"] = self._factor, self._per_row
            argument["rows"] = 0 if indices is None else indices.data.ptr
            self._launch("residuals", _warps(count), argument)
            if g is not None:
                blocks = _ceil_div(count, SUM_BLOCK)
                sums = cupy.empty(blocks * p, np.float64)
                argument["sums"], argument["g"] = sums.data.ptr, g.data.ptr
                self._launch("gradient_blocks", blocks * _ceil_div(p, TILE), argument)
                _pair(sums, 1, blocks, p)
                self._launch("gradient", _ceil_div(p, THREADS), argument)
            if r is not None or g is not None:
                return None
            squares, loss = _sum("squares", residuals, 1, count, 1), cupy.empty(1, np.float64)
            argument["squares"], argument["loss"] = squares.data.ptr, loss.data.ptr
            _run("MSE_KERNELS()", "mse_loss_float64", 1, argument)
            return loss.get()[0]

    def _launch(self, name: str, grid: int, argument: NDArray[Any]) -> None:
        _run("MSE_KERNELS()", f"mse_{name}_{self._Phi.dtype}", grid, argument)
