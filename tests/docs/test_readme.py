"""What the README claims: the certificate, and figures that are those of the benchmarks."""

import re
import sys
from pathlib import Path

import pytest

from samestep.proof import verify

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")


def test_certificate_is_the_one_that_verify_prints():
    result = verify.run(lambda line: None)
    assert not result["failures"]
    assert result["certificate"] in README


# Of a row of the README's table: the row in bench/README.md, and there the columns of the time and the ratio.
FIGURES = {
    "the speed of the memory": ("Adam 16,777,216", 1, 5),
    "no overhead for small arrays": ("Adam 300 x 64", 1, 5),
    "drop-ins for PyTorch": ("ResNet-50", 1, 5),
    "batch norm": ("NCHW 32x64x56x56", 2, 4),
    "gradients of least squares": ("gradient 1000000x64 float32", 1, 3),
}
UNITS = {"us": 1.0, "ms": 1000.0}


def cells(text, first):
    """The cells of the first row of a table that begins like this."""
    row = re.search(rf"^\| {re.escape(first)} \|.*\|$", text, re.M)
    assert row, first
    return [cell.strip() for cell in row[0].strip("|").split("|")]


@pytest.mark.parametrize("what", FIGURES)
def test_a_figure_is_that_of_the_benchmarks(what):
    first, time, ratio = FIGURES[what]
    row = cells(RESULTS, first)
    _, claim, beside = cells(README, what)
    value, unit = re.search(r"([\d.]+) (us|ms)\b", claim).groups()
    measured = re.search(r"([\d.]+)(?: ms)?$", row[time])
    us = float(measured[1]) * UNITS["ms" if "ms" in row[time] else "us"]
    assert f"{us / UNITS[unit]:#.3g}" == value
    assert re.match(r"[\d.]+x", beside)[0] == re.match(r"[\d.]+x", row[ratio])[0]
    if "of the roof" in claim:
        assert f"{row[3]} of the roof" in claim


def test_as_many_results_as_the_benchmark_counted():
    _, claim, beside = cells(README, "one result")
    assert cells(RESULTS, "samestep")[-1] == re.search(r"(\d) result", claim)[1]
    assert cells(RESULTS, "torch fused")[-1] == re.search(r"\d", beside)[0]


def test_the_picture_is_what_its_script_draws_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    monkeypatch.delitem(sys.modules, "picture", raising=False)
    import picture

    assert picture.PICTURE.read_text(encoding="utf-8") == picture.picture(RESULTS), "run bench/picture.py"
    assert len(picture.faster_than_fused(RESULTS)) == len(picture.shares_of_the_roof(RESULTS)) == 6
