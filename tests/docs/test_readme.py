"""What the README claims: the certificate, and figures that are those of the benchmarks."""

import re
import sys
from pathlib import Path

import pytest

from samestep.proof import verify

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")


@pytest.mark.thread_unsafe(reason="how many threads a step may use is the process's")
def test_certificate_is_the_one_that_verify_prints(record_property):
    result = verify.run(lambda line: None)
    assert not result["failures"]
    assert result["certificate"] in README
    record_property("shown", f"certificate: sha256 {result['certificate']}")


# Of a row of the README's table: the case in the newest goals of bench/README.md, and whom it stands beside.
FIGURES = {
    "the speed of the memory": ("Adam 16,777,216", "torch fused"),
    "no overhead for small arrays": ("Adam 300 x 64", "torch fused"),
    "drop-ins for PyTorch": ("Adam ResNet-50", "torch fused"),
    "half the memory": ("AdamW, all bfloat16, 16,777,216", "torch fused"),
    "batch norm": ("batch norm NCHW 32x64x56x56 forward", "torch"),
    "gradients of least squares": ("MSE gradient 1000000 x 64", "NumPy"),
}
UNITS = {"us": 1.0, "ms": 1000.0}


def cells(text, first, fifth=None):
    """The cells of the first row of a table that begins like this."""
    rows = re.findall(rf"^\| {re.escape(first)} \|.*\|$", text, re.M)
    split = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return next(row for row in split if fifth is None or row[4] == fifth)


@pytest.mark.parametrize("what", FIGURES)
def test_a_figure_is_that_of_the_benchmarks(what):
    case, peer = FIGURES[what]
    _, just_before, _, median, _, _, ratio, *_ = cells(RESULTS, case, peer)
    _, claim, beside = cells(README, what)
    value, unit = re.search(r"([\d.]+) (us|ms)\b", claim).groups()
    assert f"{float(median) / UNITS[unit]:#.3g}" == value
    assert beside.startswith(f"{ratio.split()[0]} {peer}")
    assert just_before in " ".join(README.split())
    if "of the roof" in claim:
        share = cells(RESULTS, case, "roof")[6].split("x")[0]
        assert f"{share} of the roof" in claim


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
