"""Copies, pickles and iteration of optimizers."""

import copy
import pickle

import numpy as np
import pytest

import samestep as ss
from bits import same_bits, snapshot


class TestCopies:
    def test_a_shallow_copy_has_hyper_parameters_state_and_counts_of_its_own(self):
        w = np.ones(3)
        a = ss.Adam(w, lr=0.5)
        a.step(np.ones(3))
        b = copy.copy(a)
        assert b.params[0] is w
        before = a.state["m"][0].copy()
        b.lr = 0.125
        twin = copy.deepcopy(b)
        b.step(np.ones(3))
        twin.step(np.ones(3))
        assert (a.lr, b.lr, a.t, b.t) == (0.5, 0.125, 1, 2)
        assert a.state["m"][0].tobytes() == before.tobytes()
        assert w.tobytes() == twin.params[0].tobytes()

    def test_of_groups(self):
        w, v = np.ones(2), np.ones(2)
        a = ss.SGD([{"params": w}, {"params": {"v": v}, "lr": 0.25}], lr=0.5)
        b = copy.copy(a)
        b.groups[1]["lr"] = 1.0
        b.step([np.ones(2), {"v": np.ones(2)}])
        assert (a.groups[1]["lr"], a.t) == (0.25, 0)
        assert (w[0], v[0]) == (0.5, 0.0)

    def test_of_a_class_that_keeps_the_groups_under_another_name(self):
        class Renamed(ss.Adam):
            def __init__(self, params):
                super().__init__(params, lr=0.5)
                self.param_groups, self.counts = self.groups, self._steps

        a = Renamed(np.ones(2))
        b = copy.copy(a)
        b.step(np.ones(2))
        b.lr = 0.25
        assert (a.lr, b.lr, a.t, b.t) == (0.5, 0.25, 0, 1)
        assert not a.state["m"][0].any()
        assert b.param_groups is b.groups

    def test_a_copy_keeps_its_state_in_main_memory(self, tmp_path):
        """A group that is added to the copy makes no files beside those of the original."""
        a = ss.Adam(np.ones(3), state_dir=tmp_path)
        for b in (copy.copy(a), copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
            b.add_group({"params": np.ones(2)})
            b.step([np.ones(3), np.ones(2)])
        assert sorted(p.name for p in tmp_path.iterdir()) == ["m.0", "v.0"]
        assert not a.state["m"][0].any()

    def test_attributes_of_a_derived_class(self):
        class Named(ss.Adam):
            def __init__(self, params, name):
                super().__init__(params)
                self.name = name

        optimizer = Named(np.ones(2), "first")
        optimizer.history = [1]
        twin = copy.deepcopy(optimizer)
        assert (twin.name, twin.history) == ("first", [1])
        assert copy.copy(optimizer).history is optimizer.history
        with pytest.raises(AttributeError, match="history: Adam has none"):
            ss.Adam(np.ones(2)).history = []

    def read_only(self, optimizer):
        """As it comes out of a store that hands out read-only memory."""
        buffers = []
        data = pickle.dumps(optimizer, protocol=5, buffer_callback=buffers.append)
        return pickle.loads(data, buffers=[b.raw().tobytes() for b in buffers])

    def test_what_a_derived_class_keeps_of_the_optimizer_itself(self):
        class Own(ss.Adam):
            def __init__(self, params):
                super().__init__(params)
                self.me, self.first, self.m = self, self.groups[0], self.state["m"][0]

        optimizer = Own(np.ones(2))
        twin = copy.copy(optimizer)
        assert twin is not optimizer
        twin.lr = 0.5
        assert twin.me is twin
        assert twin.first is twin.groups[0]
        assert twin.m is twin.state["m"][0]
        assert optimizer.lr == 0.001
        assert optimizer.m is not twin.m

    def test_a_deep_copy_of_a_group_is_its_values(self):
        optimizer = ss.SGD(np.ones(2), lr=0.5)
        assert copy.deepcopy(optimizer.groups[0]) == {"lr": 0.5, "weight_decay": 0.0}
        twin = copy.deepcopy(optimizer)
        twin.groups[0]["lr"] = 0.25
        assert (optimizer.lr, twin.lr) == (0.5, 0.25)

    def test_a_file_of_joblib_has_each_parameter_once(self, tmp_path):
        """It makes two arrays of one that it meets twice; a further group would bring back the other one."""
        joblib = pytest.importorskip("joblib")
        joblib.dump(ss.SGD(np.ones(2), lr=0.5), tmp_path / "optimizer")
        loaded = joblib.load(tmp_path / "optimizer")
        loaded.step(np.ones(2))
        loaded.add_group({"params": np.ones(1)})
        assert loaded.params[0].tolist() == [0.5, 0.5]

    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    def test_over_read_only_memory(self, backend):
        optimizer = ss.Adam({"w": np.ones(3)}, lr=0.5, weight_decay=0.1, backend=backend)
        optimizer.step({"w": np.ones(3)})
        loaded = self.read_only(optimizer)
        assert (loaded.t, loaded.lr) == (1, 0.5)
        same_bits(loaded.state["m"], optimizer.state["m"])
        loaded.lr = 0.25
        loaded.record_stats()
        assert loaded.stats is None
        for _ in range(2):
            with pytest.raises(ValueError, match=r"params\['w'\]: the array is read-only; .*deepcopy"):
                loaded.step({"w": np.ones(3)})
        with pytest.raises(ValueError, match="read-only"):
            loaded.load_state_dict(optimizer.state_dict())
        assert loaded.t == 1
        twin = copy.deepcopy(loaded)
        optimizer.lr = 0.25
        for one in (twin, optimizer):
            one.step({"w": np.ones(3)})
        same_bits(snapshot(twin), snapshot(optimizer))
        assert twin.stats.steps == 1

    def test_counts_over_read_only_memory_can_be_set(self):
        optimizer = ss.SGD(np.ones(3), lr=0.5)
        loaded = self.read_only(optimizer)
        loaded.load_state_dict({**optimizer.state_dict(), "t": 5, "steps": [5]})
        assert (loaded.t, loaded.steps) == (5, [5])

    def test_mapped_read_only_as_joblib_hands_it_to_workers(self, tmp_path):
        joblib = pytest.importorskip("joblib")
        optimizer = ss.Adam([np.ones(200_000)])
        joblib.dump(optimizer, tmp_path / "optimizer")
        loaded = joblib.load(tmp_path / "optimizer", mmap_mode="r")
        assert isinstance(loaded.params[0], np.memmap)
        with pytest.raises(ValueError, match=r"params\[0\]: the array is read-only"):
            loaded.step([np.ones(200_000)])
        twin = copy.deepcopy(loaded)
        twin.step([np.ones(200_000)])
        optimizer.step([np.ones(200_000)])
        same_bits(snapshot(twin), snapshot(optimizer))

    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    def test_states_alone_read_only(self, backend):
        optimizer = ss.Adam([np.ones(3), np.ones(3)], backend=backend)
        saved, before = optimizer.state_dict(), snapshot(optimizer)
        optimizer.state["m"][1].flags.writeable = False
        with pytest.raises(ValueError, match=r"state\['m'\]\[1\]: the array is read-only; set its flag"):
            optimizer.step([np.ones(3), np.ones(3)])
        with pytest.raises(ValueError, match=r"state\['m'\]\[1\]: the array is read-only; set its flag"):
            optimizer.load_state_dict(saved)
        same_bits(snapshot(optimizer), before)
        optimizer.state["m"][1].flags.writeable = True
        optimizer.step([np.ones(3), np.ones(3)])
        assert optimizer.steps == [1, 1]

    def test_load_state_dict_over_a_read_only_parameter(self):
        optimizer = ss.Adam(np.ones(3))
        saved = optimizer.state_dict()
        optimizer.params[0].flags.writeable = False
        optimizer.load_state_dict({**saved, "t": 5, "steps": [5]})  # what it writes can be written
        with pytest.raises(ValueError, match="params: the array is read-only"):
            optimizer.step(np.ones(3))
        optimizer.params[0].flags.writeable = True
        optimizer.step(np.ones(3))
        assert optimizer.t == 6

    def test_a_schedule_that_pickle_cannot_store(self):
        optimizer = ss.SGD(np.ones(2), lr=lambda t: 1.0 / t)
        with pytest.raises(
            pickle.PicklingError, match=r"groups\[0\]\['lr'\].*samestep.schedules.*cloudpickle"
        ):
            pickle.dumps(optimizer)
        for twin in (copy.copy(optimizer), copy.deepcopy(optimizer)):
            twin.step(np.ones(2))
            assert twin.lr == 1.0

    @pytest.mark.parametrize(
        "schedule",
        [
            ss.schedules.constant(0.5),
            ss.schedules.step(0.5, every=1, factor=0.5),
            ss.schedules.cosine(0.5, steps=4),
            ss.schedules.warm_up(ss.schedules.inverse_time(0.5, decay=0.5), steps=3),
        ],
    )
    def test_the_schedules_of_the_package_are_pickled(self, schedule):
        optimizer = ss.SGD(np.ones(2), lr=schedule)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            twin = pickle.loads(pickle.dumps(optimizer, protocol))
            for t in (1, 2, 3):
                twin.step(np.ones(2))
                assert twin.lr == schedule(t)

    def test_a_schedule_that_cloudpickle_can_store(self):
        optimizer = ss.SGD(np.ones(2), lr=lambda t: 1.0 / t)
        older = {"__name__": "cloudpickle.cloudpickle_fast", "optimizer": optimizer}
        exec("state = optimizer.__getstate__()", older)  # as version 2 calls it
        cloudpickle = pytest.importorskip("cloudpickle")
        twin = pickle.loads(cloudpickle.dumps(optimizer))
        twin.step(np.ones(2))
        twin.step(np.ones(2))
        assert twin.lr == 0.5


class TestIterate:
    def test_nags_stored_point_is_the_look_ahead_of_it(self):
        rng = np.random.default_rng(0)
        target, x, v = rng.normal(size=4), np.zeros(4), np.zeros(4)
        optimizer = ss.NAG(np.zeros(4), lr=0.1, momentum=0.5, momentum_next=0.75)
        optimizer.step(optimizer.params[0] - target)
        v = 0.5 * v - 0.1 * (x + 0.5 * v - target)
        x = x + v
        np.testing.assert_allclose(optimizer.iterate[0], x, rtol=1e-13)
        assert (
            optimizer.iterate[0].tobytes() == (optimizer.params[0] - 0.75 * optimizer.state["v"][0]).tobytes()
        )

    def test_of_the_others_it_is_the_parameters_copied(self):
        for optimizer in (ss.NAG(np.ones(2), 0.1, form="torch"), ss.Adam(np.ones(2))):
            optimizer.step(np.ones(2))
            iterate = optimizer.iterate[0]
            same_bits([iterate], optimizer.params)
            iterate[...] = 0
            assert optimizer.params[0].all()

    @pytest.mark.parametrize("options", [{}, {"master": "split"}])
    def test_of_a_bfloat16_without_axes(self, options):
        bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
        optimizer = ss.NAG(np.ones((), bfloat16), lr=0.125, momentum=0.5, **options)
        optimizer.step(np.ones((), bfloat16))
        assert isinstance(optimizer.iterate[0], np.ndarray)
        assert optimizer.iterate[0] == 0.875

    @pytest.mark.parametrize("options", [{}, {"master": "float32"}, {"state_dtype": "param"}])
    def test_in_16_bits_it_is_widened(self, options):
        optimizer = ss.NAG(np.ones(2, np.float16), lr=0.1, momentum=0.5, **options)
        optimizer.step(np.ones(2, np.float16))
        assert optimizer.iterate[0].dtype == np.float32
        np.testing.assert_allclose(optimizer.iterate[0], 0.9, rtol=1e-3)
