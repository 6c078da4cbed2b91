"""PyTorch's tools with samestep's classes: none differs, and docs/guide/torch-tools.md has every verdict."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

from snippets import ROOT
from walk import cases, names, table

PAGE = ROOT / "docs" / "guide" / "torch-tools.md"
ROWS = PAGE.read_text(encoding="utf-8").split("\n## Names")[0].splitlines()
ALONE, TOGETHER = ([one for one in table.in_order() if one.processes == n] for n in (1, 2))
pytestmark = pytest.mark.filterwarnings("ignore")  # of the tools; many of them are deprecated


def check(one):
    cells, reasons = table.row(one)
    assert cases.DIFFERS not in cells, "\n".join(reasons)
    assert table.line(cells) in ROWS, f"{one.tool}: run PYTHONPATH=tests/torch python -m walk > {PAGE}"


@pytest.mark.parametrize(
    "one", [pytest.param(one, id=one.tool, marks=[pytest.mark.slow] * one.slow) for one in ALONE]
)
def test_the_page_has_the_verdict(one):
    if (absent := cases.missing(one)) and absent not in cases.NEVER_INSTALLED:
        pytest.skip(f"{absent} is not installed: pip install 'samestep[torch-test]'")
    check(one)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_the_page_has_the_verdicts_of_two_processes():
    for one in TOGETHER:
        check(one)


def test_the_page_has_these_tools():
    tools = [row.split(" | ")[0].removeprefix("| ") for row in ROWS if row.startswith("| `")]
    assert tools == [f"`{one.tool}`" for one in table.in_order()]


def test_every_verdict_is_explained():
    cells = {cell for row in ROWS if row.startswith("| `") for cell in row.split(" | ")[1:4]}
    assert {cell.strip(" |").split(":")[0] for cell in cells} - {""} <= cases.VERDICTS.keys()


def test_somebody_has_looked_at_every_name():
    """A new torch offers new names: write a case for each, or a reason into names.ELSEWHERE."""
    assert names.not_looked_at() == []
