"""As much of CuPy as samestep uses, on the host: arrays are NumPy's, kernels those of csrc/gpu/kernels.cu,
run by fibers (tests/native/cuda_shim.cpp). Arrays refuse what CuPy's refuse: to become NumPy arrays by
themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import types
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import elf


class CUDARuntimeError(RuntimeError):
    pass


class NVRTCError(RuntimeError):
    pass


class CUDADriverError(RuntimeError):
    pass


class Stream:
    """Nothing runs beside anything here: what matters is who is told to wait for whom."""

    current = 1  # as DLPack numbers CUDA's default stream

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr

    def __enter__(self) -> Any:
        self._before, Stream.current = Stream.current, self.ptr
        return self

    def __exit__(self, *_: object) -> None:
        Stream.current = self._before

    waited_for: ClassVar[list[int]] = []

    def synchronize(self) -> None:
        Stream.waited_for.append(self.ptr)


class ExternalStream(Stream):
    """As CuPy 14's: it warns when it is made, and is entered on its device alone."""

    def __init__(self, ptr: int, device_id: int = -1) -> None:
        warnings.warn(
            "ExternalStream is deprecated. Use Stream.from_external()", DeprecationWarning, stacklevel=2
        )
        super().__init__(ptr)
        self.device_id = device_id

    def __enter__(self) -> Any:
        if self.device_id not in (-1, Device.current):
            raise RuntimeError(
                f"the stream is of device {self.device_id}, the current one is {Device.current}"
            )
        return super().__enter__()


class Device:
    current = 0

    def __init__(self, id: int | None = None) -> None:
        self.id = Device.current if id is None else id
        self._before: list[int] = []

    compute_capability = "90"
    attributes: ClassVar[dict[str, int]] = {
        "MaxSharedMemoryPerBlockOptin": 227 << 10,
        "MultiProcessorCount": 4,
    }
    waited_for: ClassVar[list[int]] = []

    def synchronize(self) -> None:
        Device.waited_for.append(self.id)

    def __enter__(self) -> Any:
        self._before.append(Device.current)
        Device.current = self.id
        return self

    def __exit__(self, *_: object) -> None:
        Device.current = self._before.pop()


class ndarray:  # noqa: N801
    def __init__(self, host: np.ndarray, device: int | None = None) -> None:
        self.host = host
        self.device = Device(device)

    dtype = property(lambda self: self.host.dtype)
    shape = property(lambda self: self.host.shape, lambda self, shape: self._set_shape(shape))
    strides = property(lambda self: self.host.strides)
    size = property(lambda self: self.host.size)
    ndim = property(lambda self: self.host.ndim)
    nbytes = property(lambda self: self.host.nbytes)
    itemsize = property(lambda self: self.host.itemsize)
    data = property(lambda self: types.SimpleNamespace(ptr=self.host.ctypes.data))
    flags = property(lambda self: types.SimpleNamespace(c_contiguous=self.host.flags.c_contiguous))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.host.__array_interface__, "version": 3}

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device.id

    def __dlpack__(self, *, stream: int, max_version: Any = None, copy: Any = None) -> Any:
        return self.host.__dlpack__(max_version=max_version)

    def _set_shape(self, shape: Any) -> None:
        """As CuPy does: in place, in the same memory."""
        host = self.host.reshape(shape)
        if not np.may_share_memory(host, self.host):
            raise AttributeError("incompatible shape")
        self.host = host

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    def __reduce__(self) -> Any:
        return _array, (self.get(),)

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use `.get()`.")

    def __len__(self) -> int:
        return len(self.host)

    def __float__(self) -> float:
        return float(self.get())

    def __getitem__(self, key: Any) -> ndarray:
        return ndarray(self.host[key], self.device.id)

    def __setitem__(self, key: Any, value: ndarray) -> None:
        self.host[key] = value.host

    read_on: ClassVar[list[int]] = []  # streams that were waited for

    def get(self, stream: Stream | None = None) -> np.ndarray:
        ndarray.read_on.append(Stream.current if stream is None else stream.ptr)
        return self.host.copy()

    def copy(self) -> ndarray:
        return ndarray(np.array(self.host, order="C"), self.device.id)

    def view(self, dtype: Any) -> ndarray:
        return ndarray(self.host.view(dtype), self.device.id)

    def reshape(self, *shape: Any) -> ndarray:
        host = self.host.reshape(*shape)
        # Where it is a copy, that is made on the current device.
        return ndarray(host, self.device.id if np.may_share_memory(host, self.host) else None)

    def transpose(self, *axes: Any) -> ndarray:
        return ndarray(self.host.transpose(*axes), self.device.id)


def asarray(a: Any, blocking: bool = False) -> ndarray:
    if isinstance(a, ndarray):
        return a
    if isinstance(a, np.ndarray):
        return ndarray(a.copy())
    if isinstance(a, float):
        return ndarray(np.asarray(a))
    interface = types.SimpleNamespace(__array_interface__=a.__cuda_array_interface__, owner=a)  # stays alive
    return ndarray(np.asarray(interface))


def _array(host: np.ndarray) -> ndarray:
    return ndarray(host.copy())


class _Exported:
    """A capsule, as NumPy takes it."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **_: object) -> Any:
        return self._capsule


def from_dlpack(a: Any) -> ndarray:
    """As CuPy 14 does: from the current stream, whether read-only or not."""
    kind, number = a.__dlpack_device__()
    assert kind in (2, 13)
    with Device(number):
        try:
            capsule = a.__dlpack__(stream=Stream.current, max_version=(1, 0), copy=None)
        except TypeError:
            capsule = a.__dlpack__(stream=Stream.current)
    return ndarray(np.from_dlpack(_Exported(capsule)), number)


def zeros(shape: Any, dtype: Any) -> ndarray:
    return ndarray(np.zeros(shape, dtype))


def empty(shape: Any, dtype: Any) -> ndarray:
    out = np.empty(shape, dtype)
    out.view(np.uint8)[...] = 0xAA  # nobody may rely on zeros
    return ndarray(out)


def zeros_like(a: ndarray, dtype: Any = None) -> ndarray:
    return ndarray(np.zeros_like(a.host, dtype))


def empty_like(a: ndarray) -> ndarray:
    return ndarray(np.full_like(a.host, np.nan))


def concatenate(arrays: list[ndarray]) -> ndarray:
    return ndarray(np.concatenate([a.host for a in arrays]))


WITHOUT_ASKING = 48 << 10  # bytes of shared memory that a launch can have


class SharedMemoryError(AssertionError):
    """Threads race for shared memory, or one reads what none wrote."""


class HostKernels:
    """The shared library, and what was launched.

    Args:
        library: built from tests/native/cuda_on_host.cpp.
        seed: of the order in which blocks and threads run; 0: as they are numbered.
    """

    def __init__(self, library: Path, seed: int = 0) -> None:
        self._path = library
        self._library = ctypes.CDLL(str(library))
        self._library.shared_memory_fault.restype = ctypes.c_char_p
        self._library.set_order(ctypes.c_ulonglong(seed))
        self._library.argument_size.restype = ctypes.c_longlong
        self._library.kernel_name.restype = ctypes.c_char_p
        self.launches: list[tuple[str, int, int]] = []

    def names(self) -> list[str]:
        found = []
        while name := self._library.kernel_name(ctypes.c_longlong(len(found))):
            found.append(name.decode())
        return found

    def launch(
        self,
        name: str,
        grid: tuple[int],
        block: tuple[int],
        arguments: tuple[np.ndarray],
        shared_mem: int = 0,
        allowed: int = WITHOUT_ASKING,
    ) -> None:
        (argument,) = arguments
        assert argument.size == 1
        assert argument.nbytes == self._library.argument_size(name.encode()), name
        assert argument.nbytes <= 4096, "what a launch can carry"
        assert 0 < grid[0] < 2**31
        assert block[0] % 32 == 0
        assert shared_mem <= allowed, "more shared memory than was asked for"
        self.launches.append((name, grid[0], block[0]))
        pointer = argument.ctypes.data_as(ctypes.c_void_p)
        sizes = [ctypes.c_uint(n) for n in (grid[0], block[0], shared_mem)]
        self._library.launch(name.encode(), *sizes[:2], pointer, sizes[2])
        if fault := self._library.shared_memory_fault():
            raise SharedMemoryError(re.sub(r"byte (\d+) of shared memory", self._variable, fault.decode()))

    def _variable(self, byte: re.Match[str]) -> str:
        """Which of the library's thread_local variables, all of which are shared memory there."""
        at = int(byte[1])
        for symbol in elf.symbols(self._path.read_bytes()):
            if symbol.kind == elf.THREAD_LOCAL and symbol.value <= at < symbol.value + symbol.size:
                # Mangled: of a function, E, the length of the name, the name; of a namespace, E at the end.
                name = re.search(r"E\d+([a-z]\w*?)(?:_\d+)?$|[a-z]\d+([a-z]\w*)E$", symbol.name)
                return f"byte {at - symbol.value} of {(name[1] or name[2]) if name else symbol.name}"
        return byte[0]


def make(kernels: HostKernels) -> types.ModuleType:
    """The module ``cupy``."""

    class Module:
        def load(self, cubin: bytes) -> None:
            if cubin not in [repr(program).encode() for program in programs.values()]:
                raise CUDADriverError("CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid")

        def get_function(self, name: str) -> Any:
            return Function(name)

    class Function:
        def __init__(self, name: str) -> None:
            functions.append(self)
            self.ptr, self._name, self.allowed = len(functions) - 1, name, WITHOUT_ASKING

        def __call__(self, grid: Any, block: Any, arguments: Any, shared_mem: int = 0) -> None:
            kernels.launch(self._name, grid, block, arguments, shared_mem, self.allowed)

    functions: list[Function] = []

    def set_attribute(function: int, attribute: int, value: int) -> None:
        if attribute == most_shared:
            # What the kernel declares comes out of the same.
            assert value + 1024 <= Device.attributes["MaxSharedMemoryPerBlockOptin"]
            functions[function].allowed = value
        else:
            assert attribute == preferred_shared
            assert 0 <= value <= 100

    most_shared, preferred_shared = 8, 9  # as CUDA numbers them
    programs: dict[int, tuple[str, tuple[str, ...]]] = {}

    def create_program(text: str, *_: object) -> int:
        programs[len(programs)] = (text, ())
        return len(programs) - 1

    def compile_program(program: int, options: tuple[str, ...]) -> None:
        programs[program] = (programs[program][0], options)

    cupy = types.ModuleType("cupy")
    for thing in (
        ndarray,
        asarray,
        from_dlpack,
        zeros,
        empty,
        zeros_like,
        empty_like,
        concatenate,
    ):
        setattr(cupy, thing.__name__, thing)
    nvrtc = types.SimpleNamespace(
        NVRTCError=NVRTCError,
        createProgram=create_program,
        compileProgram=compile_program,
        getCUBIN=lambda program: repr(programs[program]).encode(),
        getProgramLog=lambda program: "",
        destroyProgram=lambda program: None,
        getVersion=lambda: (13, 0),
        programs=programs,
    )
    runtime = types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=lambda: 2,
        getDevice=lambda: Device.current,
        getDeviceProperties=lambda device: {"name": b"fibers on the host"},
    )
    function = types.SimpleNamespace(Module=Module)
    driver = types.SimpleNamespace(
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=most_shared,
        CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT=preferred_shared,
        funcSetAttribute=set_attribute,
    )
    cupy.cuda = types.SimpleNamespace(  # type: ignore[attr-defined]
        nvrtc=nvrtc,
        runtime=runtime,
        function=function,
        driver=driver,
        Device=Device,
        ExternalStream=ExternalStream,
        get_current_stream=lambda: Stream(Stream.current),
    )
    return cupy


@contextlib.contextmanager
def installed(library: Path, folder: Path, seed: int = 0) -> Any:
    """samestep with this in the place of CuPy; yields what its kernels are launched by."""
    import sys

    import pytest

    from samestep.backends import gpu

    kernels = HostKernels(library, seed)
    caches = (gpu.device.get_cupy, gpu.kernels._module, gpu.kernels._kernel)
    caches += (gpu.kernels.shared_memory, gpu.kernels.multiprocessors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", make(kernels))
        patch.setenv("SAMESTEP_CACHE", str(folder))
        for cache in caches:
            cache.cache_clear()
        try:
            yield kernels
        finally:
            for cache in caches:
                cache.cache_clear()


def device(a: Any, number: int = 0) -> ndarray:
    return ndarray(np.array(a), number)
