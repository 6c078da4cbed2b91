"""docs/theory.md, the part on the slides: every row names functions and tests, and all of them exist."""

import re
from pathlib import Path

import pytest

import samestep as ss

ROOT = Path(__file__).parent.parent
HEADING = "# The slides, formula by formula"
# Names in a table may leave out the module that the name before them has.
HOMES = (ss, ss.problems, ss.theory, ss.theory.landscape, ss.theory.flows)
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))


def part():
    """The page from our heading to the next of its rank."""
    page = (ROOT / "docs" / "theory.md").read_text()
    return re.split(r"^# ", page[page.index(HEADING) + 2 :], flags=re.M)[0]


def rows():
    """(item, function, test) of each row of the tables with these columns."""
    found, columns = [], []
    for line in part().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if "item" in cells:
            columns = [cells.index(name) for name in ("item", "function", "test")]
        elif cells and not set(line) <= set("|-: "):
            found.append(tuple(cells[i] for i in columns))
    return found


def reaches(home, dotted):
    for name in dotted.split("."):
        if not hasattr(home, name):
            return False
        home = getattr(home, name)
    return True


@pytest.mark.parametrize(("item", "function", "test"), rows(), ids=lambda cell: cell[:12])
def test_a_row(item, function, test):
    names = re.findall(r"`(\w[\w.]*)(?:\([^`]*\))?`", function)
    named = re.findall(r"`(test_\w+\*?|Test\w+)`", test)
    links = re.findall(r"\]\(([^)]+)\)", function + test)
    for name in names:
        assert any(reaches(home, name) for home in HOMES), f"{item}: no function {name}"
    for name in named:
        pattern = rf"(def|class) {name[:-1]}\w*" if name.endswith("*") else rf"(def|class) {name}\b"
        assert re.search(pattern, TESTS), f"{item}: no test {name}"
    for link in links:
        assert (ROOT / "docs" / link).is_file(), f"{item}: no file {link}"
    # Only a claim without a formula (B5) has neither.
    assert (names and (named or links)) or item == "B5"


def test_no_item_is_left_out():
    items = " ".join(item for item, *_ in rows())
    numbers = {int(n) for n in re.findall(r"B(\d+)", items)}
    for first, last in re.findall(r"B(\d+)\u2013B(\d+)", items):
        numbers |= set(range(int(first), int(last) + 1))
    assert numbers | {17} == set(range(1, 23))  # B17, backtracking and schedules, is with the notes
    assert {"A12", "A20, A21"} <= {item for item, *_ in rows()}
