"""Real processes: gloo and MPI, real kills."""

import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from samestep.parallel import threads
from worker_processes import mpirun, run_processes
from worker_trainings import GOLDEN, STEPS, alone, network_digests, sharded, train, train_on_gpu

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


def kill_and_go_on(seed, path):
    """4 workers, one killed at a transfer of its own; on with 3, then 1, then 7."""
    draw = random.Random(seed)
    kill = draw.randrange(4), draw.randint(18, 42)  # of the 11 of a step and its checkpoint
    found = run_processes(4, train, path, STEPS, False, kill=kill)
    for rank, text in enumerate(found):
        assert (text is None) == (rank == kill[0])
        assert text is None or text.startswith("WorkerLost: "), text
    opt = sharded(threads(1)[0])
    opt.load(path)
    done = opt.t
    assert 0 < done < STEPS - 2
    for size, last in ((3, done + 1), (1, done + 2), (7, STEPS)):
        assert set(run_processes(size, train, path, last, True)) == {alone(last)}


@needs_torch
def test_four_workers_one_killed_then_three_one_and_seven(tmp_path):
    kill_and_go_on(0, tmp_path)


@needs_torch
@pytest.mark.slow
def test_twenty_kills(tmp_path):
    for seed in range(1, 20):
        kill_and_go_on(seed, tmp_path / str(seed))


@needs_torch
def test_a_network_in_leaves_has_its_golden_digest():
    assert run_processes(3, network_digests) == [GOLDEN] * 3


GLOO, NCCL = {"cpu": "gloo", "cuda": "gloo"}, {"cuda": "nccl"}
# Which way what goes: of a group of gloo all by main memory, of one of NCCL all by the GPU.
WAYS = {
    "gloo": (GLOO, set()),
    "both": ({**GLOO, **NCCL}, {"meet", "stream_of", "on_its_gpu", "wait_on_gpu"}),
    "nccl": (NCCL, {"meet", "stream_of", "on_its_gpu", "wait_on_gpu", "device_of"}),
}


@needs_torch
@pytest.mark.parametrize("way", WAYS)
def test_parameters_on_a_gpu(way, cuda_on_host):
    engines, expected = WAYS[way]
    for size in (2, 3):
        for found in run_processes(size, train_on_gpu, cuda_on_host, engines):
            assert not isinstance(found, str), found
            digest, ways = found
            assert digest == alone(STEPS)
            assert set(ways) == expected


SCRIPT = """
import sys
sys.path.insert(0, {support!r})
from pathlib import Path
from samestep.parallel import mpi
from worker_trainings import STEPS, network_digests, train
group = mpi()
digest = train(group, {path!r} + "/checkpoint", STEPS, False)
Path({path!r}, str(group.rank)).write_text(
    f"{{digest}} {{group.size}} {{network_digests(group)}}", encoding="utf-8"
)
"""


def test_mpi_has_the_same_bits(tmp_path):
    launcher = mpirun()
    support = str(Path(__file__).parents[1] / "support")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(support=support, path=str(tmp_path)), encoding="utf-8")
    for size in (1, 3, 4):
        done = subprocess.run(
            [launcher, "-n", str(size), sys.executable, str(script)],
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        for rank in range(size):
            assert (tmp_path / str(rank)).read_text(encoding="utf-8") == f"{alone(STEPS)} {size} {GOLDEN}"
