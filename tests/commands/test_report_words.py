"""The words and numbers of the report's page: markup, rounding, links, and what quick mode admits."""

# ruff: noqa: RUF001 the page has minus signs

import dis
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from samestep.commands import report
from samestep.commands.report import items, own, rates
from samestep.commands.report.cells import cells, number
from samestep.commands.report.markup import formula, prose
from samestep.commands.report.page import page
from samestep.commands.report.pictures import drawn
from samestep.commands.table import Table


class Text(HTMLParser):
    """What a reader sees of a page: its text without styles and scripts."""

    def __init__(self, page):
        super().__init__()
        self.inside, self.parts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag in ("style", "script", "code"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.parts.append(data)


RAW = re.compile(r"[`^_{}\\$]|\*\*|\bη|\beta\b|:(?:class|func|math):")


CUT_NAME = re.compile("</su[bp]>[a-z]{2,}")  # a Python name whose underscores became subscripts


def raw_markup(text):
    return [part for part in Text(text).parts if RAW.search(part)]


def small_table():
    return Table("mine", ("a",), "b", np.array([[1.0], [-1.0]]) / 2**0.5, np.array([1.0, -1.0]))


class TestMarkup:
    def test_the_page_shows_none(self, made):
        text = made[1].read_text(encoding="utf-8")
        assert raw_markup(text) == []
        assert CUT_NAME.findall(text) == []

    def test_the_page_of_a_table_shows_none(self):
        pictures, own_items = own.parts(small_table())
        rows = [items.measured(item, True) for item in own_items]
        text = page([drawn(picture, True) for picture in pictures], rows, True, small_table())
        assert raw_markup(text) == []

    def test_every_text_of_the_full_report_comes_out_without(self):
        texts = [text for item in report.ITEMS for text in (item.title, item.remark, item.quick)]
        for picture in report.PICTURES:
            texts += [picture.title, picture.caption, picture.full, picture.quick]
        assert [text for text in map(prose, texts) if raw_markup(text)] == []
        assert [text for text in map(prose, texts) if CUT_NAME.search(text)] == []
        assert [text for text in (formula(item.formula) for item in report.ITEMS) if raw_markup(text)] == []

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("(1 − μ)^tL_0", "(1 − μ)<sup><i>t</i></sup><i>L</i><sub>0</sub>"),
            ("a_kv − λ_kg", "<i>a</i><sub><i>k</i></sub><i>v</i> − λ<sub><i>k</i></sub><i>g</i>"),
            ("e^{a_{i,j}}", "<i>e</i><sup><i>a</i><sub><i>i</i>,<i>j</i></sub></sup>"),
            ("λ_{max} < tr S", "λ<sub>max</sub> &lt; tr <i>S</i>"),
            ("lr g(w)", "<i>lr</i> <i>g</i>(<i>w</i>)"),
            ("_", "_"),
        ],
    )
    def test_formulas(self, text, shown):
        assert formula(text) == shown

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            (
                "I see a dot at L^2 or L_0L",
                "I see a dot at <i>L</i><sup>2</sup> or <i>L</i><sub>0</sub><i>L</i>",
            ),
            ("``--quick`` of `a_kv`", "<code>--quick</code> of <i>a</i><sub><i>k</i></sub><i>v</i>"),
            ("Newton's 3-spin d. Lr = lr", "Newton's 3-spin <i>d</i>. Lr = <i>lr</i>"),
            ("20 000 of 3 4000 steps", "20\N{NO-BREAK SPACE}000 of 3 4000 steps"),
            ("a = ½, 2(1+a)", "<i>a</i> = ½, 2(1+<i>a</i>)"),
        ],
    )
    def test_prose(self, text, shown):
        assert prose(text) == shown


class TestCells:
    @pytest.mark.parametrize(
        ("check", "shown"),
        [
            (items.near("x", -0.009781373, 0.02, abs=0.1), ("−0.0098", "0.02", "± 0.1")),
            (items.near("x", 0.49571234, 0.5, abs=0.01), ("0.496", "0.5", "± 0.01")),
            (items.near("x", [-5, -6], [-5, -6]), ("−5<br>−6", "−5<br>−6", "exact")),
            (items.near("x", [1, 1], [1, 1]), ("1<br>1", "1", "exact")),
            (items.near("x", 2e-17, 0, abs=1e-12), ("2·10<sup>−17</sup>", "0", "± 10<sup>−12</sup>")),
            (items.near("x", 1063.0712, 1063.0712, rel=1e-3), ("1063.1", "1063.1", "± 1")),
            (items.at_most("x", 0.35271234, 1), ("0.3527", "≤ 1", "limit")),
            (items.at_least("x", [float("inf"), 7], 1e20), ("∞<br>7", "≥ 10<sup>20</sup>", "limit")),
            (items.at_most("x", 1.0000001, 1), ("1.0000001", "≤ 1", "limit")),
            (items.near("x", float("nan"), 1, abs=0.1), ("no number", "1", "± 0.1")),
            (items.near("x", 0.1 + 0.2 + 1e-15, 0.3), ("0.300000000000001", "0.3", "exact")),
        ],
    )
    def test_three_columns(self, check, shown):
        assert cells(check) == shown

    @pytest.mark.parametrize(
        ("x", "digits", "shown"),
        [
            (0.0, 7, "0"),
            (631992.892817, 7, "631992.9"),
            (1e6, 1, "10<sup>6</sup>"),
            (12345678.0, 7, "1.235·10<sup>7</sup>"),
            (-4.557e-4, 7, "−4.557·10<sup>−4</sup>"),
            (-0.00099999999, 7, "−0.001"),
        ],
    )
    def test_numbers(self, x, digits, shown):
        assert number(x, digits) == shown

    def test_no_pass_looks_like_a_fail(self, made):
        """Rounded for display, a measured number still lies on its side of the limit."""
        for row in made[0].rows:
            for check in row.checks:
                if check.relation == "≤":
                    assert all(float(f"{x:.4g}") <= float(f"{e:.4g}") for x, e in pairs(check)), check
                elif check.relation == "≥":
                    assert all(float(f"{x:.4g}") >= float(f"{e:.4g}") for x, e in pairs(check)), check


def pairs(check):
    return zip(check.measured, check.expected, strict=True)


class TestLinks:
    def test_every_item_has_a_link_to_it_and_one_back(self, made):
        text = made[1].read_text(encoding="utf-8")
        contents = text[text.index('<nav id="contents"') : text.index("</nav>")]
        names = re.findall(r'<article class="item" id="([^"]+)">', text)
        assert re.findall(r'href="#(item-[^"]+)"', contents) == names
        assert len(names) == len(report.ITEMS)
        assert text.count('<a href="#contents">↑ all items</a>') == len(report.ITEMS)

    def test_a_verdict_is_a_sign_and_a_word(self, made):
        text = made[1].read_text(encoding="utf-8")
        for kind, told in re.findall(r'class="(?:verdict|mark) (pass|fail)">([^<]*)<', text):
            assert told.lower() == {"pass": "✓ pass", "fail": "✗ fail"}[kind]

    def test_the_tab_is_called_like_the_page(self, made):
        text = made[1].read_text(encoding="utf-8")
        (title,), (headline,) = re.findall("<title>(.*)</title>", text), re.findall("<h1>(.*)</h1>", text)
        assert title.startswith(headline)


class TestQuick:
    def test_a_caption_tells_what_was_run(self, made):
        for picture, shown in zip(report.PICTURES, made[0].pictures, strict=True):
            assert shown.caption == f"{picture.caption} {picture.quick}".strip()
            assert bool(picture.quick) == bool(picture.full), picture.name
        higham = next(shown for shown in made[0].pictures if shown.name == "higham")
        assert "10 000 steps" in higham.caption
        assert "all ten points are right" not in higham.caption

    def test_an_item_tells_what_was_measured_instead(self, made):
        quick = made[1].read_text(encoding="utf-8")
        full = page([], made[0].rows, quick=False)
        less = [item for item in report.ITEMS if item.quick]
        assert len(less) >= 10
        assert quick.count('<p class="remark">Quick: ') == len(less)
        assert "Quick: " not in full

    def test_what_differs_is_told(self):
        """An item or a picture whose code looks at ``quick`` says so."""
        for item in report.ITEMS:
            assert uses(item.measure, "quick") == bool(item.quick), item.key
        for picture in report.PICTURES:
            assert uses(picture.drawing, "quick") == bool(picture.quick), picture.name


def uses(function, name):
    """Whether the function reads its argument."""
    return any(
        step.argval == name or (isinstance(step.argval, tuple) and name in step.argval)
        for step in dis.get_instructions(function)
        if step.opname.startswith("LOAD")
    )


def test_the_pictures_of_the_edges_have_true_headlines():
    """The heavy ball converges up to 3/beta in it, NAG up to 1.5/beta only."""
    assert rates.edge.title == "Each method has its edge"
    assert own.parts(small_table())[0][1].title == "Each method has its edge, on your table"
