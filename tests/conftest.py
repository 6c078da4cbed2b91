"""The grid that the tests run over, read from the registries: rules x forms x dtypes, instruction
sets, threads. A rule added to the registries is tested without touching a test.
"""

from collections.abc import Iterator

import numpy as np
import pytest

import samestep as ss
from samestep import verify

ISAS = ss.info()["isas"]


@pytest.fixture(params=verify.cases(), ids=str)
def case(request: pytest.FixtureRequest) -> verify.Case:
    return request.param


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = ss.info()["isa"]
    ss.set_isa(request.param)
    yield request.param
    ss.set_isa(before)


@pytest.fixture(params=(1, 2, 3), ids=lambda n: f"{n}threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = ss.get_num_threads()
    ss.set_num_threads(request.param)
    yield request.param
    ss.set_num_threads(before)


def same_bits(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Fails at the first array that differs, with index, values and bit patterns."""
    assert len(got) == len(expected)
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert verify.difference(a, b) is None, f"array {i} (0 is w): {verify.difference(a, b)}"
