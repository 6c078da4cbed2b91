"""Arrays on a GPU: what a step and the functions refuse, layouts, and arrays of other libraries."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import host_cupy
import samestep as ss
from bits import same_bits
from host_cupy import device, ndarray


class Tensor:
    """An array of another library, as torch's: by DLPack, which is told of streams, and by the interface."""

    def __init__(self, host: np.ndarray, streams: list[int] | None = None, number: int = 0) -> None:
        self.host, self.number = host, number
        self.streams = [] if streams is None else streams

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.number

    def __dlpack__(self, *, stream: int, max_version: Any = None, copy: Any = None) -> Any:
        assert host_cupy.Device.current == self.number
        self.streams.append(stream)
        return self.host.__dlpack__(max_version=max_version)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.host.__array_interface__, "version": 2}


class TestFrontDoor:
    """Errors before anything is written, and arrays of other libraries."""

    def test_a_gradient_in_main_memory(self, kernels):
        w = device(np.zeros(3))
        optimizer = ss.SGD([w], lr=0.1)
        with pytest.raises(TypeError, match=r"grads\[0\]: got numpy.ndarray, which is not on a GPU"):
            optimizer.step([np.ones(3)])
        assert (w.host == 0).all()
        assert optimizer.t == 0

    def test_a_gradient_on_a_gpu_for_a_parameter_in_main_memory(self, kernels):
        w = np.zeros(3)
        with pytest.raises(TypeError, match="grads: lives on a GPU, where backend='cpu' does not reach"):
            ss.SGD(w, lr=0.1).step(device(np.ones(3)))
        assert (w == 0).all()

    @pytest.mark.parametrize("backend", ["auto", "cuda"])
    def test_parameters_in_both_places(self, kernels, backend):
        with pytest.raises(TypeError, match=r"params\[1\]: got numpy.ndarray, which is not on a GPU"):
            ss.SGD([device(np.zeros(3)), np.zeros(3)], lr=0.1, backend=backend)

    def test_classes_derived_from_cupys(self, kernels):
        class Derived(ndarray):
            pass

        w, v = device(np.zeros(3)), Derived(np.zeros(3))
        optimizer = ss.SGD([w, v], lr=0.5)
        for _ in range(2):
            optimizer.step([Derived(np.ones(3)), device(np.ones(3))])
        assert w.host.tolist() == v.host.tolist() == [-1.0] * 3

    def test_two_gpus(self, kernels):
        with pytest.raises(ValueError, match=r"params\[1\]: lives on GPU 1, expected GPU 0 as params\[0\]"):
            ss.SGD([device(np.zeros(3)), device(np.zeros(3), 1)], lr=0.1)
        optimizer = ss.SGD(device(np.zeros(3), 1), lr=0.1)
        with pytest.raises(ValueError, match="grads: lives on GPU 0, expected GPU 1"):
            optimizer.step(device(np.ones(3)))
        optimizer.step(device(np.ones(3), 1))

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            (np.zeros((4, 4))[:, ::2], "leave gaps"),
            (np.zeros(4, np.int64), "got dtype int64"),
            (np.broadcast_to(np.zeros(1), 4), "leave gaps or repeat"),
        ],
    )
    def test_parameters_that_cannot_be_stepped(self, kernels, params, message):
        with pytest.raises((TypeError, ValueError), match=message):
            ss.SGD(ndarray(params), lr=0.1)

    @pytest.mark.parametrize(
        ("g", "message"),
        [
            (np.zeros((2, 3)).T, "differ from the parameter's"),
            (np.zeros((2, 3)), "got shape"),
            (np.zeros((3, 2), np.float32), "got dtype float32"),
        ],
    )
    def test_gradients_that_do_not_fit(self, kernels, g, message):
        w = device(np.zeros((3, 2)))
        optimizer = ss.Adam(w, lr=0.1)
        with pytest.raises((TypeError, ValueError), match=message):
            optimizer.step(ndarray(g))
        assert not kernels.launches
        assert optimizer.t == 0

    def test_a_gradient_off_the_borders_of_its_type(self, kernels):
        w = device(np.zeros(3, np.float32))
        optimizer = ss.SGD(w, lr=0.1)
        with pytest.raises(ValueError, match="do not lie on a multiple of 4 bytes"):
            optimizer.step(ndarray(np.zeros(17, np.uint8)[1:13].view(np.float32)))
        assert not kernels.launches

    def test_a_gradient_over_a_parameter(self, kernels):
        room = np.zeros(8)
        optimizer = ss.SGD(ndarray(room[:5]), lr=0.1)
        with pytest.raises(ValueError, match="overlaps a parameter or state"):
            optimizer.step(ndarray(room[3:]))
        assert not kernels.launches

    def test_other_axes_order_is_walked_in_place(self, kernels):
        w = np.zeros((3, 4)).T
        ss.SGD(ndarray(w), lr=1.0).step(ndarray(np.arange(12.0).reshape(3, 4).T))
        assert w.tolist() == (-np.arange(12.0).reshape(3, 4).T).tolist()

    def test_arrays_of_other_libraries(self, kernels):
        """By the interface that numba, torch and JAX offer, without a copy."""

        class Other:
            def __init__(self, host: np.ndarray, readonly: bool = False) -> None:
                self._interface = {**host.__array_interface__, "version": 3}
                self._interface["data"] = (host.ctypes.data, readonly)

            __cuda_array_interface__ = property(lambda self: self._interface)

        w, g = np.zeros(3), np.ones(3)
        optimizer = ss.SGD([Other(w)], lr=0.5)
        optimizer.step([Other(g)])
        kernels.launches.clear()
        optimizer.step([Other(g)])
        assert [name for name, _, _ in kernels.launches] == ["form_updates_sgd", "step_sgd_float64"]
        assert w.tolist() == [-1.0] * 3
        with pytest.raises(ValueError, match="params: the array is read-only"):
            ss.SGD(Other(w, readonly=True), lr=0.1)
        x = np.float32([[1, 2], [3, 5]])
        y, _, _ = ss.batchnorm_forward(Other(x), device(np.ones(2, "f")), device(np.zeros(2, "f")))
        same_bits([y.get()], [ss.batchnorm_forward(x, np.ones(2, "f"), np.zeros(2, "f"))[0]])

    @pytest.mark.parametrize("number", [0, 1])
    def test_the_stream_of_another_library_is_waited_for(self, kernels, number):
        """By DLPack also where there is the interface, whose version 2, torch's, names no stream."""
        w, g = np.zeros(3), np.ones(3)
        streams: list[int] = []
        optimizer = ss.SGD(Tensor(w, streams, number), lr=0.5)
        with host_cupy.Stream(77):
            optimizer.step(Tensor(g, streams, number))
            optimizer.step(Tensor(g, streams, number))
        assert streams == [1, 77, 77]
        assert w.tolist() == [-1.0] * 3

    @pytest.mark.parametrize(("version", "waits"), [(2, True), (3, False)])
    def test_an_interface_without_a_stream(self, kernels, monkeypatch, version, waits):
        class Other:
            def __init__(self, host: np.ndarray) -> None:
                self.host = host

            @property
            def __cuda_array_interface__(self) -> dict[str, Any]:
                return {**self.host.__array_interface__, "version": version}

        optimizer = ss.SGD(Other(np.zeros(3)), lr=0.5)
        monkeypatch.setattr(host_cupy.Device, "waited_for", [])
        optimizer.step(Other(np.ones(3)))
        assert host_cupy.Device.waited_for == ([0] if waits else [])

    @pytest.mark.parametrize("by", ["DLPack 0 and the interface", "DLPack 1 and the interface", "DLPack 1"])
    def test_what_is_read_only_is_read_but_not_written(self, kernels, by):
        """DLPack 1 has a flag for it, which CuPy does not look at; DLPack 0 hands nothing out."""

        class Other(Tensor):
            if by.startswith("DLPack 0"):

                def __dlpack__(self, *, stream: int) -> Any:
                    return self.host.__dlpack__()

            if by == "DLPack 1":
                __cuda_array_interface__ = property()

        w, g = np.zeros(3), np.ones(3)
        g.flags.writeable = False
        ss.SGD(Other(w), lr=0.5).step(Other(g))
        assert w.tolist() == [-0.5] * 3
        with pytest.raises(ValueError, match=r"^params: the array is read-only"):
            ss.SGD(Other(g), lr=0.5)
        one = device(np.ones(3))
        with pytest.raises(ValueError, match=r"^out: the array is read-only"):
            ss.batchnorm_forward(device(np.ones((1, 3))), one, one, out=Other(g.reshape(1, 3)))

    def test_what_the_interface_alone_calls_read_only(self, kernels):
        """Libraries that hand out by DLPack what may not be written."""

        class Other(Tensor):
            @property
            def __cuda_array_interface__(self) -> dict[str, Any]:
                return {**self.host.__array_interface__, "data": (self.host.ctypes.data, True)}

        with pytest.raises(ValueError, match=r"^params: the array is read-only"):
            ss.SGD(Other(np.zeros(3)), lr=0.5)

    def test_gradients_of_others_in_another_order_are_copied(self, kernels):
        w, g = np.zeros((2, 3)), np.arange(6.0).reshape(3, 2).T
        optimizer = ss.SGD(device(w), lr=0.5, copy_grads=True)
        for given in (device(g), Tensor(g)):
            optimizer.step(given)
        assert optimizer.params[0].host.tolist() == (-g).tolist()

    def test_a_copy_is_not_written(self, kernels):
        class Other(Tensor):
            def __dlpack__(self, *, stream: int, max_version: Any = None, copy: Any = None) -> Any:
                return self.host.__dlpack__(max_version=max_version, copy=True)

        w = device(np.zeros(3))
        ss.SGD(w, lr=0.5).step(Other(np.ones(3)))
        assert w.host.tolist() == [-0.5] * 3
        with pytest.raises(TypeError, match=r"^params: .* cannot be shared \(its library hands out a copy\)"):
            ss.SGD(Other(np.zeros(3)), lr=0.5)

    def test_what_neither_dlpack_nor_the_interface_hands_out(self, kernels):
        """A tensor of torch that requires a gradient."""

        class Other(Tensor):
            def __dlpack__(self, **_: Any) -> Any:
                raise BufferError("it requires gradient")

            @property
            def __cuda_array_interface__(self) -> dict[str, Any]:
                raise RuntimeError("Can't get __cuda_array_interface__")

        w = device(np.zeros(3))
        with pytest.raises(TypeError, match=r"^grads\[0\]: .* cannot be shared \(it requires gradient\)"):
            ss.SGD([w], lr=0.5).step([Other(np.ones(3))])
        assert (w.host == 0).all()

    def test_arrays_by_dlpack_alone(self, kernels):
        class Other:
            def __init__(self, host: np.ndarray, error: str | None = None) -> None:
                self.host, self.error = host, error

            def __dlpack_device__(self) -> tuple[int, int]:
                return 2, 0

            def __dlpack__(self, *, stream: int) -> Any:
                if self.error:
                    raise BufferError(self.error)
                return self.host.__dlpack__()

        w = np.zeros(3)
        ss.SGD(Other(w), lr=0.5).step(Other(np.ones(3)))
        assert w.tolist() == [-0.5] * 3
        with pytest.raises(TypeError, match=r"cannot be shared \(requires gradient\).*detach"):
            ss.SGD(Other(w, "requires gradient"), lr=0.1)

    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    def test_backends_of_main_memory_refuse(self, kernels, backend):
        x, one = device(np.ones((4, 2))), device(np.ones(2))
        for call in (
            lambda: ss.SGD(x, lr=0.1, backend=backend),
            lambda: ss.canonical_sum(x, backend=backend),
            lambda: ss.batchnorm_forward(x, one, one, backend=backend),
            lambda: ss.problems.MSE(x, device(np.ones(4)), backend=backend),
        ):
            with pytest.raises(TypeError, match="lives on a GPU"):
                call()

    def test_batch_norm_with_a_layer_in_main_memory(self, kernels):
        with pytest.raises(TypeError, match=r"gamma: got numpy.ndarray, which is not on a GPU"):
            ss.BatchNorm(2, dtype=np.float64).forward(device(np.ones((4, 2))))

    def test_results_may_not_lie_over_what_is_read(self, kernels):
        x, one = device(np.ones((4, 2))), device(np.ones(2))
        with pytest.raises(ValueError, match="out: overlaps x"):
            ss.batchnorm_forward(x, one, one, out=x)
        dy = device(np.ones((4, 2)))
        _, mean, inv = ss.batchnorm_forward(x, one, one)
        assert ss.batchnorm_backward(dy, x, one, one, mean, inv, out=dy)[0] is dy

    def test_state_travels_through_main_memory(self, kernels):
        values, g = np.ones(5), np.arange(5.0)
        here, there = values.copy(), device(values)
        one, other = ss.Adam(here, lr=0.1), ss.Adam(there, lr=0.1)
        one.step(g)
        there[...] = device(here)
        other.load_state_dict(one.state_dict())
        one.step(g)
        other.step(device(g))
        same_bits([there.get(), other.state_dict()["state"]["v"][0]], [here, one.state["v"][0]])
        assert ss.digest(there) == ss.digest(here)


class TestLayouts:
    """CuPy lets the shape of an array be set; a plan goes by the layout that it was bound to."""

    @pytest.mark.parametrize("changed", ["shape", "strides", "dtype"])
    @pytest.mark.parametrize("is_seen", [False, True])
    def test_of_a_parameter(self, kernels, changed, is_seen):
        w = device(np.zeros((2, 2)))
        optimizer = ss.Momentum(w, lr=1.0)
        if is_seen:
            optimizer.step(device(np.ones((2, 2))))
        kernels.launches.clear()
        steps = optimizer.steps
        if changed == "shape":
            w.shape = (4,)
        else:
            w.host = w.host.T if changed == "strides" else w.host.astype(np.float32)
        before = w.get()
        g = np.arange(4, dtype=w.dtype).reshape(w.shape)
        with pytest.raises((TypeError, ValueError)):
            optimizer.step(ndarray(g.T if changed == "strides" else g))
        assert not kernels.launches
        assert optimizer.steps == steps
        same_bits([w.host], [before])

    def test_that_is_set_back(self, kernels):
        w, g = device(np.zeros((2, 3))), device(np.ones((2, 3)))
        optimizer = ss.SGD(w, lr=1.0)
        w.shape = (6,)
        with pytest.raises(ValueError, match=r"params: its shape is now \(6,\), expected \(2, 3\)"):
            optimizer.step(device(np.ones(6)))
        w.shape = (2, 3)
        optimizer.step(g)
        assert (w.host == -1).all()

    def test_of_a_gradient_that_was_seen(self, kernels):
        w, g = device(np.zeros((2, 3))), device(np.ones((2, 3)))
        optimizer = ss.SGD(w, lr=1.0)
        optimizer.step(g)
        g.shape = (3, 2)
        with pytest.raises(ValueError, match=r"grads: got shape \(3, 2\), expected the parameter's \(2, 3\)"):
            optimizer.step(g)
        g.host = np.full((2, 3), 2.0)  # in other memory; CuPy has no way to do this
        optimizer.step(g)
        assert (w.host == -3).all()

    @pytest.mark.parametrize("changed", ["shape", "strides", "dtype"])
    def test_of_a_state(self, kernels, changed):
        """Held against the parameters whenever a plan is made."""
        optimizer = ss.Momentum(device(np.zeros((2, 2))), lr=1.0)
        (v,) = optimizer.state["v"]
        if changed == "shape":
            v.shape = (4,)
        else:
            v.host = v.host.T if changed == "strides" else v.host.astype(np.float32)
        with pytest.raises(ValueError, match="state"):
            optimizer.record_stats(False)

    @pytest.mark.parametrize("make", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
    def test_of_a_copy(self, kernels, make):
        """CuPy copies into C order, parameters and states alike; the original goes on in its own."""
        values = np.arange(6.0).reshape(2, 3).T
        w, g = ndarray(values.copy(order="K")), ndarray(np.ones((2, 3)).T)
        optimizer = ss.Adam(w, lr=0.5)
        optimizer.step(g)
        other = make(optimizer)
        other.step(ndarray(np.ones((3, 2))))
        assert (optimizer.steps, other.steps) == ([1], [2])
        optimizer.step(g)
        same_bits([other.params[0].host], [w.host])
        assert w.host.tolist() == optimizer.params[0].host.tolist() != values.tolist()

    def test_stats_are_not_to_be_had(self, kernels):
        optimizer = ss.SGD(device(np.zeros(3)), lr=0.5)
        with pytest.raises(ValueError, match="record_stats: steps on a GPU end after the call"):
            optimizer.record_stats()
        optimizer.step(device(np.ones(3)))
        assert optimizer.stats is None
