"""The grid that the tests run over, read from the registries: rules x forms x dtypes, instruction
sets, threads. A rule added to the registries is tested without touching a test. The quick tests have the
best instruction set, one thread and three; of the others make test compares what the certificate covers.
"""

import gc
import itertools
import sys
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from inspect import getfullargspec
from pathlib import Path
from typing import Any

import pytest

import samestep as ss
from bits import ISAS
from native_programs import build_native
from samestep import _core
from samestep.proof import golden

# Tests alone are collected: pytest would import a helper to look for doctests, whatever that import does.
collect_ignore = ["support", "torch/walk"]
_core.wake_always(True)  # small work, too, is done by as many threads as a test asks for


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """A test file that cannot be imported fails. The look for doctests would skip it and all its tests."""
    report = yield
    is_of_tests = Path(__file__).parent in collector.path.parents
    if report.skipped and is_of_tests and "unable to import module" in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"{collector.path} cannot be imported; `python {collector.path}` says why"
    return report


_ended = itertools.count(1)
_settings = _core.get_isa(), ss.get_num_threads()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """What the process uses is a test's to give back: one that does not fails, and none after it.

    Without its lock CPython looks for cycles only when there are a quarter more objects. An optimizer and
    its groups are a cycle, and the arrays of those that a thousand tests have dropped would take 20 GB.
    """
    try:
        yield
    finally:
        left = _core.get_isa(), ss.get_num_threads()
        if left != _settings:
            ss.set_isa(_settings[0])
            ss.set_num_threads(_settings[1])
        if next(_ended) % 20 == 0 and not getattr(sys, "_is_gil_enabled", lambda: True)():
            gc.collect()
    if left != _settings:
        expected = f"expected {_settings}; let it take the fixture `settings`"
        pytest.fail(f"{item.nodeid} leaves the process with {left}, {expected}", pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What passing tests want to be seen: the property "shown", a line each."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "shown":
                terminalreporter.write_line(value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What builds the whole core again is slow, and what runs the GPU's kernels, once they are compiled for
    the host, is for make test-all. Docstrings of torch's group need torch. Two threads of one
    test would write into one file where a fixture makes it: pytest-run-parallel gives each a folder alone.
    """
    for item in items:
        names = getattr(item, "fixturenames", ())
        if "tmp_path" in names and "tmp_path" not in getfullargspec(item.obj).args:
            item.add_marker(pytest.mark.thread_unsafe(reason="a fixture makes its files"))
        if "mappings" in names:
            item.add_marker(pytest.mark.thread_unsafe(reason="a fixture maps one memory"))
        if hasattr(getattr(item, "module", None), "snippets"):
            item.add_marker(pytest.mark.thread_unsafe(reason="it reads what the process prints"))
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.thread_unsafe(reason="CuPy's stand-in has one list of launches"))
        if find_spec("torch") is None and item.nodeid.partition("::")[0].endswith("parallel/torch_group.py"):
            item.add_marker(pytest.mark.skip(reason="torch is not installed"))
        if "native" in names:
            item.add_marker(pytest.mark.slow)
        if "cuda_on_host" in names:
            item.add_marker(pytest.mark.more)


@pytest.fixture(params=golden.cases(), ids=str)
def case(request: pytest.FixtureRequest) -> golden.Case:
    return request.param


@pytest.fixture(params=[ISAS[0], *(pytest.param(isa, marks=pytest.mark.more) for isa in ISAS[1:])])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = ss.info()["isa"]
    ss.set_isa(request.param)
    yield request.param
    ss.set_isa(before)


@pytest.fixture
def settings() -> Iterator[None]:
    """Whatever a test sets, instruction set and threads are afterwards what they were."""
    before = ss.info()["isa"], ss.get_num_threads()
    yield
    ss.set_isa(before[0])
    ss.set_num_threads(before[1])


@pytest.fixture(params=(1, pytest.param(2, marks=pytest.mark.more), 3), ids=lambda n: f"{n}threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = ss.get_num_threads()
    ss.set_num_threads(request.param)
    yield request.param
    ss.set_num_threads(before)


@pytest.fixture(
    params=[
        pytest.param((isa, threads), marks=[pytest.mark.more] * (isa != ISAS[0] or threads == 2))
        for isa in ISAS
        for threads in (1, 2, 3, 5)
    ],
    ids=str,
)
def machine(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """An instruction set and a number of threads."""
    before = ss.info()["isa"], ss.get_num_threads()
    ss.set_isa(request.param[0])
    ss.set_num_threads(request.param[1])
    yield request.param
    ss.set_isa(before[0])
    ss.set_num_threads(before[1])


@pytest.fixture(scope="session")
def native() -> Path:
    return build_native("native")


@pytest.fixture(scope="session")
def cuda_on_host() -> Path:
    """csrc/gpu/kernels.cu as a library of the host; see tests/native/cuda_shim.cpp."""
    return build_native("native", target="cuda_on_host") / "libcuda_on_host.so"
