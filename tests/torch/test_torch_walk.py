"""PyTorch's tools with samestep's classes: no case differs, and docs/guide/torch-tools.md has every verdict."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

from snippets import ROOT
from walk import areas, cases, table

PAGE = ROOT / "docs" / "guide" / "torch-tools.md"
ROWS = PAGE.read_text(encoding="utf-8").splitlines()
CASES = [
    pytest.param(one, id=one.tool, marks=[pytest.mark.slow] if one.slow else []) for one in areas.cases()
]


@pytest.mark.filterwarnings("ignore")  # of the tools; many of them are deprecated
@pytest.mark.parametrize("one", CASES)
def test_the_page_has_the_verdict(one):
    if absent := cases.missing(one):
        pytest.skip(f"{absent} is not installed: pip install 'samestep[torch-test]'")
    cells, reasons = table.row(one)
    assert cases.DIFFERS not in cells, reasons
    assert table.line(cells) in ROWS, f"{one.tool}: run PYTHONPATH=tests/torch python -m walk > {PAGE}"


def test_the_page_has_these_tools():
    tools = [row.split(" | ")[0].removeprefix("| ") for row in ROWS if row.startswith("| `")]
    assert tools == [f"`{one.tool}`" for one in table.in_order()]
