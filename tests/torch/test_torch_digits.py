"""The network on the digits has one digest in samestep's arrays and in its modules; torch's own has many."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")
pytest.importorskip("sklearn.datasets")

import samestep as ss
from samestep.commands import digits, digits_torch

EPOCHS = 2
ATOL = 1e-5  # 1.2e-7 was seen


@pytest.fixture(scope="module")
def comparison():
    return digits_torch.compare(EPOCHS)


def test_arrays_and_modules_train_to_one_digest_everywhere(comparison):
    isas = ss.info()["isas"]
    assert [(run.library, run.isa, run.threads) for run in comparison.runs] == [
        (library, isa, threads)
        for isa in isas
        for threads in (1, 2, 8)
        for library in ("samestep", "samestep.torch", "torch")
    ]
    expected = [digits.train_digits(EPOCHS).digest]
    assert comparison.digests("samestep") == comparison.digests("samestep.torch") == expected
    assert comparison.passed


def test_torch_trains_to_several(comparison):
    found = comparison.digests("torch")
    assert len(found) > 1
    assert comparison.digests("samestep")[0] not in found


def test_torch_trains_the_same_network():
    ours, theirs = (digits_torch.train_in_torch(library, 1) for library in ("samestep.torch", "torch"))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=ATOL)


@pytest.mark.parametrize("library", ["samestep.torch", "torch"])
def test_the_seed_counts(library):
    found = [ss.digest(digits_torch.train_in_torch(library, 1, seed)) for seed in (0, 1)]
    assert found[0] != found[1]


def test_a_process_that_fails_is_named(monkeypatch):
    monkeypatch.setenv("SAMESTEP_TUNE", "maybe")
    with pytest.raises(OSError, match=r"the training on \w+ failed: (.|\n)*SAMESTEP_TUNE: got 'maybe'"):
        digits_torch.compare(1)
