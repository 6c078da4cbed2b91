"""Groups: what each engine carries, and that nobody waits for ever."""

import copy
import pickle

import numpy as np
import pytest

import samestep as ss
from samestep.parallel import WorkerLost, run_threads, threads


def test_arrays_of_all_workers_come_in_order_of_rank():
    def one(group):
        mine = np.full(group.rank, 10 * group.rank, np.int16)  # worker 0 has none
        return [part.tolist() for part in group.all_gather(mine, list(range(group.size)))]

    assert run_threads(4, one) == [[[], [10], [20, 20], [30, 30, 30]]] * 4


def test_facts_travel_as_json():
    found = run_threads(2, lambda g: g.all_gather_json({"rank": g.rank, "name": "é" * g.rank}))
    assert found == [[{"rank": 0, "name": ""}, {"rank": 1, "name": "é"}]] * 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KeyError("k"), RuntimeError),
        (FileNotFoundError(2, "no such file"), OSError),
        (np.linalg.LinAlgError("singular"), ValueError),
        (NotImplementedError("on a GPU"), NotImplementedError),
    ],
)
def test_an_error_is_told_to_all_as_one_of_its_kind(error, kind):
    def one(group):
        try:
            return group.all_or_none(error if group.rank == 1 else None, group.rank)
        except Exception as found:
            return found

    first, own, last = run_threads(3, one)
    assert own is error
    assert type(first) is type(last) is kind
    assert str(first) == str(last) == f"worker 1 of 3 has given up: {type(error).__name__}: {error}"


def test_facts_of_all_workers_come_where_there_is_no_error():
    assert run_threads(3, lambda group: group.all_or_none(None, group.rank)) == [[0, 1, 2]] * 3


def test_what_is_bound_to_a_group_stays_there():
    (group,) = threads(1)
    problem = ss.problems.MSE(np.ones((2, 1)), np.ones(2), group=group)
    for bound in (group, problem):
        with pytest.raises(TypeError, match="group: got ThreadGroup, which is a process's place"):
            pickle.dumps(bound)
    assert copy.deepcopy(group) is group
    again = copy.deepcopy(problem)
    assert again.group is group
    assert again.loss(np.zeros(1)) == problem.loss(np.zeros(1)) == 1.0
    sharded = ss.parallel.Sharded(lambda p: ss.SGD(p, lr=0.1), np.ones(2), group, leaves=1)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="Sharded: cannot be copied or pickled"):
            copied(sharded)


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
            run_threads(3, one, timeout=20)
    else:
        run_threads(3, one, timeout=20)
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
    for timeout, error in (("x", TypeError), (np.nan, ValueError), (-1, ValueError)):
        with pytest.raises(error, match="timeout: got"):
            threads(1, timeout=timeout)


def test_torch_distributed_must_be_started():
    pytest.importorskip("torch")
    with pytest.raises(RuntimeError, match="start the script with torchrun"):
        ss.parallel.torch_distributed()
