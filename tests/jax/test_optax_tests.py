"""What optax asks of its own optimizers: its tests, run with samestep.jax's in their tables."""

import unittest

import pytest

import samestep as ss

for package in ("jax", "optax", "absl", "sklearn"):
    pytest.importorskip(package, reason=f"{package} is not installed")
if not ss._core.xla_calls():
    pytest.skip("samestep was compiled without jaxlib's headers", allow_module_level=True)

import optax_tests

CLASSES = {name: optax_tests.load(name) for name in optax_tests.FILES}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("name", "test"), [(n, test) for n in CLASSES for test in optax_tests.names_of(n)])
def test_of_optax(name, test):
    result = unittest.TestResult()
    CLASSES[name](test).run(result)
    assert result.testsRun == 1
    problems = [text for _, text in result.errors + result.failures + result.skipped]
    assert not problems, problems[0]
