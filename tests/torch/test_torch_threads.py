"""The threads of samestep.torch are those of torch's OpenMP, wherever they can be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

START = """if True:
    import ctypes, hashlib, os, threading
    import torch, samestep as ss, samestep.torch as st

    def tasks():
        return set(os.listdir("/proc/self/task"))

    def torch_works():
        torch.ones(1 << 20).add_(1.0)

    def parameter():
        p = torch.nn.Parameter(torch.linspace(-1, 1, 1 << 20))
        p.grad = torch.linspace(2, -3, 1 << 20)
        return p

    def digest(p=None):
        p = parameter() if p is None else p
        st.SGD([p], lr=0.1).step()
        return hashlib.sha256(p.detach().numpy().tobytes()).hexdigest()

    torch.set_num_threads(3)
    ss.set_num_threads(3)
    torch_works()
    before = tasks()
"""


def run(code: str, start: str = START, **environment: str) -> str:
    """What a process of its own prints: threads that were once started stay."""
    done = subprocess.run(
        [sys.executable, "-c", start + code],
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ONE_THREAD = """
    ss.set_num_threads(1)
    alone = digest()
    ss.set_num_threads(3)
"""


def test_a_step_starts_no_second_pool():
    code = """
    assert digest() == alone
    print(ss.info()["pool"], len(tasks() - before))
    """
    assert run(ONE_THREAD + code) == "libtorch_cpu.so 0"


def test_the_environment_keeps_the_own_pool():
    code = """
    assert digest() == alone
    print(ss.info()["pool"], len(tasks() - before))
    """
    assert run(ONE_THREAD + code, SAMESTEP_POOL="own") == "own 2"


def test_fewer_threads_than_torch_end_none_of_its_team():
    code = """
    ss.set_num_threads(2)
    before = tasks()
    assert digest() == alone
    torch_works()
    print(tasks() == before)
    """
    assert run(ONE_THREAD + code) == "True"


@pytest.mark.parametrize("threads", [1, 2])
def test_more_threads_than_torch_are_the_own_pools(threads):
    code = f"""
    torch.set_num_threads({threads})
    torch_works()
    before = tasks()  # some that torch gave up may still be among them
    assert digest() == alone
    print(len(tasks() - before))
    """
    assert run(ONE_THREAD + code) == "2"


def test_a_forked_child_has_a_pool_of_its_own():
    code = """
    assert digest() == alone
    p = parameter()  # here, and SGD has no state: in a child torch's operations hang once its team has worked
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, f"{digest(p)} {len(tasks())} {ss.info()['pool']}".encode())
        os._exit(0)
    os.wait()
    found, threads, pool = os.read(read, 1000).decode().split()
    assert found == alone == digest()
    print(threads, pool, ss.info()["pool"])
    """
    assert run(ONE_THREAD + code) == "3 own libtorch_cpu.so"


@pytest.mark.parametrize("before", ["import samestep", ""])
def test_a_forked_child_that_imports_it_has_a_pool_of_its_own(before):
    """Its parent's team is not there, and libgomp would wait for it for ever."""
    start = f"""if True:
    import os, signal, torch
    {before}
    torch.ones(1 << 20).add_(1.0)
    p = torch.nn.Parameter(torch.zeros(1 << 20))
    p.grad = torch.ones(1 << 20)
    if os.fork() == 0:
        signal.alarm(30)
        import samestep as ss, samestep.torch as st
        ss.set_num_threads(2)
        st.SGD([p], lr=1.0).step()
        os.write(1, f"{{ss.info()['pool']}} {{p.detach().numpy().sum()}}".encode())
        os._exit(0)
    assert os.wait()[1] == 0
    """
    assert run("", start) == f"own {-(1 << 20)}.0"


def test_a_preloaded_runtime_keeps_the_own_pool(tmp_path):
    """LLVM's or Intel's takes the calls of torch's libgomp, whose team would be a second one."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    assert compiler, "the package was built by one"
    source, library = tmp_path / "runtime.cpp", tmp_path / "runtime.so"
    source.write_text('extern "C" void __kmpc_fork_call() {}', encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True)
    assert (
        run(
            """
    print(ss.info()["pool"])
    """,
            LD_PRELOAD=str(library),
        )
        == "own"
    )


def test_inside_a_parallel_region():
    """Each thread of a region of somebody's steps for itself, and the region goes on."""
    code = """
    name = next(line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line)
    region = ctypes.CDLL(name).GOMP_parallel
    found = []
    part = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: found.append(digest()))
    region(part, None, 2, 0)
    print(len(found), set(found) == {alone})
    """
    assert run(ONE_THREAD + code) == "2 True"


def test_steps_on_several_threads_at_once():
    code = """
    found = []
    workers = [threading.Thread(target=lambda: found.append(digest())) for _ in range(4)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    print(len(found), set(found) == {alone})
    """
    assert run(ONE_THREAD + code) == "4 True"
