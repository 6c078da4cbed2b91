"""What `samestep verify` runs, and what it says of results that part."""

import numpy as np
import pytest

import samestep as ss
from samestep.proof import golden, verify

CASE = golden.cases()[0]


class Stub:
    """A program whose result is 0, but 1 on that number of threads, or by "reference"."""

    def __init__(self, parts_on=None):
        self.parts_on = parts_on

    def __str__(self):
        return "stub"

    def run(self, backend):
        here = "reference" if backend == "reference" else ss.get_num_threads()
        return [np.full(3, float(here == self.parts_on))]


@pytest.fixture(autouse=True)
def every_configuration_of_the_cpu(monkeypatch):
    """Whatever GPU, threads and instruction set the machine or its user has."""
    monkeypatch.setattr(verify.gpu, "why_not", lambda: "none here")
    for name in ("SAMESTEP_THREADS", "SAMESTEP_ISA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def of(monkeypatch):
    """Runs verify with these programs alone; value: of which the stub has its golden digest."""

    def run(*programs, value=0.0):
        monkeypatch.setattr(verify, "programs", lambda: {"some": list(programs)})
        monkeypatch.setitem(golden.DIGESTS, "stub", ss.digest(np.full(3, value))[:16])
        return verify.run(lambda line: None)

    return run


def test_a_program_runs_in_every_configuration_and_steps_of_one_work_item_on_the_most_threads(of):
    short = golden.RuleProgram(CASE, "finite", 7, 3, "default")
    long = golden.RuleProgram(CASE, "finite", 7, golden.LONG_STEPS, "default")
    configurations = len([*verify.configurations()])
    isas = len({isa for isa, _ in verify.configurations()})
    assert of(short)["configurations"] == configurations
    assert of(long)["configurations"] == isas
    assert of(short, long)["configurations"] == configurations + isas


def test_equal_results_with_the_golden_digest_pass(of):
    assert of(Stub())["failures"] == []


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_configuration_that_parts_is_named(of, threads):
    result = of(Stub(parts_on=threads))
    assert len(result["failures"]) == len({isa for isa, _ in verify.configurations()})
    assert all(f"{threads} threads, result 0: element 0: got" in line for line in result["failures"])


def test_a_reference_that_parts_has_another_digest(of):
    configurations = len([*verify.configurations()])
    result = of(Stub(parts_on="reference"))
    assert len(result["failures"]) == configurations + 1
    assert "stub, reference: digest" in result["failures"][-1]
    # Its own digest does not make up for the kernels' that part from it.
    assert len(of(Stub(parts_on="reference"), value=1.0)["failures"]) == configurations


def test_equal_results_without_the_golden_digest_fail(of):
    [line] = of(Stub(), value=1.0)["failures"]
    assert line.startswith("stub, reference: digest")


def test_the_certificate_is_of_the_kernels_results(of):
    assert of(Stub())["certificate"] != of(Stub(parts_on=1))["certificate"]
    assert of(Stub())["certificate"] == of(Stub(parts_on="reference"))["certificate"]
