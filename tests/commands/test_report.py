"""The report: what it measures, when an item fails, what the command refuses, reports on a table."""

import dataclasses
import io
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from samestep.commands import cli, report
from samestep.commands.demo import Edge
from samestep.commands.report import descent, items, landscapes, methods, own, paths, slides, surfaces
from samestep.commands.report.page import page
from samestep.commands.report.pictures import drawn
from samestep.commands.table import read_csv
from samestep.theory import check_run


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "report.html"
    link.symlink_to("there/page.html")
    report.check_out(link)
    report.Report([], [], True).write(link)
    assert link.is_symlink()
    assert [file.name for file in (tmp_path / "there").iterdir()] == ["page.html"]


class Elements(HTMLParser):
    """Tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


class TestPage:
    def test_every_item_passes(self, made):
        failed = [(row.item.key, c) for row in made[0].rows for c in row.checks if not c.passed]
        assert not failed
        assert made[0].passed
        assert sum(len(row.checks) for row in made[0].rows) > 130

    def test_no_item_of_the_texts_is_left_out(self):
        told = set()
        for item in report.ITEMS:
            for first, last in re.findall(r"([AB]\d+)(?:-([AB]\d+))?", item.key):
                told |= {f"{first[0]}{n}" for n in range(int(first[1:]), int((last or first)[1:]) + 1)}
        assert told == {f"A{n}" for n in range(1, 32)} | {f"B{n}" for n in range(1, 23)}

    def test_every_item_is_checked_but_the_citation(self, made):
        assert [row.item.key for row in made[0].rows if not row.checks] == ["B5"]
        for row in made[0].rows:
            assert row.item.remark
            assert row.item.formula or row.item.key == "B5"

    def test_every_item_and_picture_is_on_it(self, made):
        text = made[1].read_text(encoding="utf-8")
        for item in report.ITEMS:
            shown = item.key.replace("-", "\N{EN DASH}")
            assert f'<span class="key">{shown}</span>' in text
        assert text.count('<span class="verdict pass">') == len(report.ITEMS)  # B5 has none, the tally one
        assert "FAIL</span>" not in text
        assert text.count("<figure ") == len(report.PICTURES)
        assert text.count("<figcaption>") == len(report.PICTURES)

    def test_it_needs_nothing_else(self, made):
        text = made[1].read_text(encoding="utf-8")
        assert "http" not in text
        assert "@import" not in text
        assert set(re.findall(r"url\((.)", text)) <= {"#"}
        for tag, attributes in Elements(text).found:
            assert "src" not in attributes, tag
            assert attributes.get("href", "#").startswith("#") or attributes["href"] == "data:,"
        assert made[1].stat().st_size < 3_000_000
        assert [path.name for path in made[1].parent.iterdir()] == ["report.html"]

    def test_ids_are_unique_and_pictures_are_described(self, made):
        elements = Elements(made[1].read_text(encoding="utf-8")).found
        ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        for tag, attributes in elements:
            if tag == "svg":
                assert len(attributes["aria-label"]) > 30
            if "href" in attributes and len(attributes["href"]) > 1 and attributes["href"][0] == "#":
                assert attributes["href"][1:] in ids

    def test_colors_are_the_pages(self, made):
        """A colour of its own would be wrong in light or in dark."""
        for picture in made[0].pictures:
            assert not re.findall(r"(?:fill|stroke): ?#\w+", picture.svg), picture.name

    def test_the_bar_is_told_every_stage(self, made):
        assert len(made[2]) == len(set(made[2])) == report.STAGES

    @pytest.mark.thread_unsafe(reason="matplotlib's figures are the process's")
    def test_the_same_again(self, made):
        for picture in (paths.quadratic, landscapes.semicircle):
            (first,) = (p for p in made[0].pictures if p.name == picture.name)
            assert drawn(picture, quick=True) == first
        rows = {row.item.key: row for row in made[0].rows}
        for key in ("A9", "A15", "B13", "B18"):
            assert items.measured(rows[key].item, quick=True) == rows[key]


class TestVerdicts:
    """That an item can fail, and what is seen then."""

    @pytest.mark.parametrize(
        ("key", "module", "name", "wrong"),
        [
            ("A6-A7", descent, "step_bound", lambda g, H: 0.6703),
            ("A8", descent, "newton_step", lambda g, H, **how: -np.asarray(g)),
            ("A9", descent, "max_step", lambda problem: 0.4969918),
            ("A13", surfaces, "sam_step", lambda opt, gradient, rho: opt.step(gradient(opt.params[0]))),
            ("A31", surfaces, "pl_rate", lambda beta, mu: 0.1),
            ("B9", slides, "mode_strength", lambda t, strength, start: 0 * t),
            ("B20", methods, "AdaGrad", lambda w, lr: methods.SGD(w, lr=lr)),
            ("B22", slides, "batchnorm_backward", lambda *a, **how: (a[0], a[2], a[3])),
        ],
    )
    def test_a_wrong_measurement_is_a_fail(self, monkeypatch, key, module, name, wrong):
        (item,) = (item for item in report.ITEMS if item.key == key)
        monkeypatch.setattr(module, name, wrong)
        row = items.measured(item, quick=True)
        assert not row.passed
        text = page([], [row], quick=True)
        assert "0 of 1 items" in text
        assert '<span class="verdict fail">✗ FAIL</span></h3>' in text
        assert '<tr class="fail">' in text
        assert '<td class="mark fail">✗ fail</td></tr>' in text

    @pytest.mark.parametrize(
        ("check", "passed"),
        [
            (items.near("x", 1.05, 1.0, abs=0.06), True),
            (items.near("x", 1.05, 1.0, rel=0.04), False),
            (items.near("x", [1.0, 2.0], [1.0, 2.1], rel=1e-3), False),
            (items.near("x", 0.1 + 0.2, 0.3), False),
            (items.near("x", float("nan"), float("nan"), abs=1.0), False),
            (items.near("x", float("inf"), 1.0, abs=1.0), False),
            (items.at_most("x", [1.0, 3.0], 2.0), False),
            (items.at_most("x", float("nan"), 2.0), False),
            (items.at_least("x", float("inf"), 2.0), True),
            (items.at_least("x", float("nan"), 2.0), False),
            (items.never("x", [False, True]), False),
            (items.never("x", np.zeros(3, bool)), True),
        ],
    )
    def test_checks(self, check, passed):
        assert check.passed == passed

    def test_as_many_as_expected(self):
        with pytest.raises(ValueError, match="x: got 1 numbers, expected 2"):
            items.near("x", 1.0, [1.0, 2.0])


class TestCommand:
    @pytest.fixture
    def run(self, made, monkeypatch, capsys):
        """The command with this report instead of a new one; returns its code and what it printed."""

        def run(*arguments, result=made[0]):
            monkeypatch.setattr(cli, "run_report", lambda quick, announce: result)
            code = cli.main(["report", *map(str, arguments)])
            return code, capsys.readouterr()

        return run

    def test_writes_the_page(self, run, made, tmp_path):
        code, printed = run("--quick", "--out", tmp_path / "page.html")
        assert code == 0
        assert printed.out == f"{tmp_path / 'page.html'}: every item as the theory says\n"
        assert (tmp_path / "page.html").read_bytes() == made[1].read_bytes()

    def test_json(self, run, made, tmp_path):
        code, printed = run("--json", "--out", tmp_path / "page.html")
        shown = json.loads(printed.out)
        assert (code, shown["passed"], shown["quick"]) == (0, True, True)
        assert [row["item"] for row in shown["items"]] == [item.key for item in report.ITEMS]
        assert shown["items"][0]["checks"][0]["measured"] == [10.5]

    def test_a_fail_is_exit_code_1(self, run, made, tmp_path):
        row = items.Row(made[0].rows[0].item, (items.near("x", 1.0, 2.0),))
        result = dataclasses.replace(made[0], rows=[row, *made[0].rows[1:]])
        code, printed = run("--out", tmp_path / "page.html", result=result)
        assert code == 1
        assert printed.out.splitlines()[0] == "FAIL A1-A2 Loss and gradient"
        assert "FAIL</span>" in (tmp_path / "page.html").read_text(encoding="utf-8")

    def test_a_bar_on_a_terminal(self, made, monkeypatch, tmp_path):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        def run_report(quick, announce):
            for stage in made[2]:
                announce(stage)
            return made[0]

        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(cli, "run_report", run_report)
        assert cli.main(["report", "--out", str(tmp_path / "page.html")]) == 0
        assert made[2][0] in terminal.getvalue()
        assert re.search("[#█]{30}", terminal.getvalue())

    @pytest.mark.parametrize(
        ("out", "message"),
        [
            ("missing/page.html", "cannot be written: No such file or directory; is "),
            (".", "which is no file; name one, such as report.html"),
            ("/dev/null", "which is no file"),
            ("/proc/page.html", "cannot be written"),
            ("file/page.html", "cannot be written: Not a directory"),
        ],
    )
    def test_what_cannot_be_written_is_said_before_the_work(
        self, out, message, tmp_path, monkeypatch, capsys
    ):
        monkeypatch.setattr(cli, "run_report", lambda *arguments: pytest.fail("it set to work"))
        (tmp_path / "file").touch()
        assert cli.main(["report", "--out", str(tmp_path / out)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("samestep report: out: ")
        assert message in error
        assert error.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestOwnTable:
    """A report on a table of one's own, with names that HTML and formulas would take for their own."""

    @pytest.fixture(scope="class")
    @staticmethod
    def houses(tmp_path_factory):
        path = tmp_path_factory.mktemp("own") / "my_<b>houses.csv"
        path.write_text(
            "city,size,rooms,age,one,price_in_$\nUlm,70,3,12,1,210\nBonn,90,4,40,1,272\n"
            "Kiel,120,4,3,1,341\nJena,55,2,60,1,150\nHalle,101,5,22,1,300\n",
            encoding="utf-8",
        )
        return path

    def test_the_page(self, houses, tmp_path, capsys):
        out = tmp_path / "page.html"
        arguments = ["report", "--csv", str(houses), "--target", "price_in_$", "--out", str(out), "--quick"]
        assert cli.main(arguments) == 0
        assert capsys.readouterr().out == f"{out}: every item as the theory says\n"
        text = out.read_text(encoding="utf-8")
        assert "<b>my_&lt;b&gt;houses.csv</b>: 5 rows, 3 columns to predict price_in_$;" in text
        assert "left out, being constant: one." in text
        assert "left out, having no number: city ('Ulm')." in text
        assert "diabetes" not in text
        assert "without <code>--csv</code>" in text
        assert text.count("<figure ") == 2
        assert text.count('<span class="verdict pass">') == 4 + 1  # the tally has one
        assert "FAIL</span>" not in text
        assert "$" not in text.replace("price_in_$", "").partition("<script>")[0]
        ids = [attributes["id"] for _, attributes in Elements(text).found if "id" in attributes]
        assert len(ids) == len(set(ids))

    def test_json_and_drop(self, houses, tmp_path, capsys):
        arguments = ["report", "--csv", houses, "--target", "price_in_$", "--out", tmp_path / "page.html"]
        assert cli.main([*map(str, arguments), "--quick", "--json", "--drop", "rooms", "city"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["passed"] is True
        assert shown["table"]["columns"] == ["size", "age"]
        assert [item["item"] for item in shown["items"]] == ["A1-A5", "A9", "A24-A26", "A15-A16, B20"]
        assert all(item["checks"] for item in shown["items"])

    def test_the_texts_own_report_has_no_table(self, made):
        assert "table" not in made[0].as_dict()
        assert "Every item of the notes and slides" in made[1].read_text(encoding="utf-8")

    def test_a_table_that_cannot_be_used_is_said_before_the_work(self, tmp_path, capsys):
        path = tmp_path / "table.csv"
        path.write_text("size,price\n-1,1\n0,0\n1,1\n", encoding="utf-8")
        out = tmp_path / "page.html"
        assert cli.main(["report", "--csv", str(path), "--target", "price", "--out", str(out)]) == 2
        assert "no column tells anything of 'price'" in capsys.readouterr().err
        assert not out.exists()

    @pytest.mark.parametrize("kind", ["dependent", "wide", "ill-conditioned", "one column", "fitted"])
    def test_every_item_passes_on_any_table(self, kind, tmp_path):
        rng = np.random.default_rng(5)
        x = np.linspace(0.1, 1, 40)
        columns, y = {
            "dependent": (np.stack([x, 2 * x, x**2], axis=1), np.sin(5 * x)),
            "wide": (rng.standard_normal((6, 9)), rng.standard_normal(6)),
            "ill-conditioned": (np.stack([x**k for k in range(1, 13)], axis=1), 1e6 * np.sin(5 * x)),
            "one column": (x[:, None], x + 0.1 * rng.standard_normal(40)),
            "fitted": (np.stack([x, x**2], axis=1), x + 2 * x**2),
        }[kind]
        path = tmp_path / "table.csv"
        header = ",".join([*(f"x{j}" for j in range(columns.shape[1])), "y"])
        np.savetxt(
            path, np.column_stack([columns, y]), delimiter=",", header=header, comments="", encoding="utf-8"
        )
        parts = own.parts(read_csv(path, "y"))[1]
        assert [c for item in parts for c in items.measured(item, quick=True).checks if not c.passed] == []

    @pytest.mark.parametrize(
        ("at", "name", "wrong"),
        [
            (0, "norms", lambda v: np.asarray(1.0)),
            (1, "try_edge", lambda problem, times: Edge(times, 1.0, 10, 1.5 if times < 2 else 0.5)),
            (2, "check_run", lambda problem, run: broken(check_run(problem, run))),
            (3, "check_run", lambda problem, run: broken(check_run(problem, run))),
        ],
    )
    def test_a_wrong_measurement_is_a_fail(self, at, name, wrong, houses, monkeypatch):
        item = own.parts(read_csv(houses, "price_in_$"))[1][at]
        assert items.measured(item, quick=True).passed
        monkeypatch.setattr(own, name, wrong)
        assert not items.measured(item, quick=True).passed


def broken(check):
    """The check of a run none of whose bounds held."""
    bounds = [dataclasses.replace(bound, held=np.zeros_like(bound.held)) for bound in check.bounds]
    return dataclasses.replace(check, bounds=tuple(bounds))
