"""Groups: what each engine carries, and that nobody waits for ever."""

import numpy as np
import pytest

import samestep as ss
from samestep.parallel import WorkerLost, run_threads, threads


def test_arrays_of_all_workers_come_in_order_of_rank():
    def one(group):
        mine = np.full(group.rank, 10 * group.rank, np.int16)  # worker 0 has none
        return [part.tolist() for part in group.all_gather(mine, list(range(group.size)))]

    assert run_threads(4, one) == [[[], [10], [20, 20], [30, 30, 30]]] * 4


def test_out_may_hold_ones_own():
    def one(group):
        out = np.zeros(6)
        mine = out[2 * group.rank : 2 * group.rank + 2]
        mine[:] = group.rank
        group.all_gather(mine, [2, 2, 2], out)
        return out.tolist()

    assert run_threads(3, one) == [[0, 0, 1, 1, 2, 2]] * 3


def test_facts_travel_as_json():
    found = run_threads(2, lambda g: g.all_gather_json({"rank": g.rank, "name": "é" * g.rank}))
    assert found == [[{"rank": 0, "name": ""}, {"rank": 1, "name": "é"}]] * 2


def test_an_error_is_told_to_all():
    def one(group):
        try:
            group.all_or_none(KeyError("k") if group.rank == 1 else None)
        except Exception as error:
            return repr(error)
        return None

    told = """ValueError("worker 1 of 3 has given up: KeyError: 'k'")"""
    assert run_threads(3, one) == [told, "KeyError('k')", told]


@pytest.mark.parametrize("ends", ["with an error", "in peace"])
def test_whoever_waits_for_one_that_has_ended_learns_of_it(ends):
    lost = []

    def one(group):
        if group.rank == 1:
            if ends == "with an error":
                raise OSError("gone")
            return
        try:
            group.all_gather(np.zeros(1), [1] * group.size)
        except WorkerLost as error:
            lost.append(str(error))

    if ends == "with an error":
        with pytest.raises(OSError, match="gone"):
            run_threads(3, one)
    else:
        run_threads(3, one)
    assert "worker 1 of 3 has ended" in lost


def test_whoever_does_not_answer_is_lost_in_time():
    first, _ = threads(2, timeout=0.1)
    with pytest.raises(WorkerLost, match=r"worker 1 of 2 did not answer in 0\.1 s"):
        first.transfer({}, {1: np.zeros(1)})


def test_what_was_sent_before_the_end_arrives():
    def one(group):
        if group.rank == 1:
            group.transfer({0: np.arange(3.0)}, {})
            return None
        found = np.zeros(3)
        group.transfer({}, {1: found})
        return found.tolist()

    assert run_threads(2, one)[0] == [0.0, 1.0, 2.0]


def test_sizes_are_checked():
    for size, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="size: got"):
            threads(size)


def test_torch_distributed_must_be_started():
    pytest.importorskip("torch")
    with pytest.raises(RuntimeError, match="start the script with torchrun"):
        ss.parallel.torch_distributed()
