"""`samestep diff`: what it prints and writes, and its exit codes."""

import json
import re

import numpy as np
import pytest

from browser import CHROMIUM, Browser
from ledgers import NAMES, at, flip, write_run
from samestep.commands import cli
from samestep.commands.diff import diff_as_text, save_diff_figure, write_page
from samestep.commands.render import Style
from samestep.ledger import Header, Ledger, diff

IN_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium, which is not installed")


@pytest.fixture
def equal(tmp_path):
    return write_run(tmp_path / "c.jsonl"), write_run(tmp_path / "d.jsonl.gz")


@pytest.fixture
def parted(tmp_path):
    change = at(4, lambda run: flip(run.grads["h.weight"], 20))
    return write_run(tmp_path / "a.jsonl"), write_run(tmp_path / "b.jsonl", before=change)


def values(step, name, kind):
    """Of two runs whose first differing element is [1, 2]."""
    x = np.full((3, 4), 0.1, np.float32)
    y = x.copy()
    y.view(np.uint32)[1, 2] ^= 1
    y.view(np.uint32)[2, 3] ^= 4
    return x, y


@pytest.fixture
def run(capsys):
    def command(*arguments):
        code = cli.main(["diff", *map(str, arguments)])
        return code, capsys.readouterr()

    return command


@pytest.mark.parametrize("option", ["--html", "--png"])
def test_no_ledger_is_drawn_over(run, parted, capsys, tmp_path, option):
    b = tmp_path / "b.svg"  # a name that a picture may have
    b.write_bytes(parted[1].read_bytes())
    before = b.read_bytes()
    with pytest.raises(SystemExit) as caught:
        run(parted[0], b, option, b)
    assert caught.value.code == 2
    assert "which is one of the ledgers; name another file" in capsys.readouterr().err
    assert b.read_bytes() == before


def test_equal(run, equal):
    code, printed = run(*equal)
    assert code == 0
    assert "Equal in all of 7 steps that both recorded, 0 to 6.\n" in printed.out
    assert "first" not in printed.out


def test_one_step_in_common(run, equal, tmp_path):
    with open(equal[0], "rb") as whole:
        lines = whole.readlines()
    (tmp_path / "start.jsonl").write_bytes(b"".join(lines[:2]))
    code, printed = run(equal[0], tmp_path / "start.jsonl")
    assert code == 0
    assert "Equal in the only step that both recorded, 0.\n" in printed.out


def test_parted(run, parted):
    code, printed = run(*parted)
    assert code == 1
    a, b = (side.records[4].tensors["h.weight"][0] for side in (diff(*parted).a, diff(*parted).b))
    lines = [line.strip() for line in printed.out.splitlines()]
    assert "Step 4: the gradient of h.weight differs." in lines
    assert "Equal up to step 3." in lines
    assert f"gradient   {a}   {b}" in lines
    assert re.search(r"^ +line +6 +6$", printed.out, re.M)
    assert "At step 4 differ, of 3 tensors: gradient of 1, parameter of 1, m of 1, v of 1." in lines
    assert "wte       ·······" in lines
    assert "h.weight  ····█▇▇  ← first" in lines
    assert "\033" not in printed.out


def test_what_was_not_compared_is_said(run, tmp_path, parted):
    write_run(tmp_path / "d.jsonl", steps=12, every=2, kinds=("gradient", "parameter"))
    code, printed = run(parted[0], tmp_path / "d.jsonl")
    assert code == 0
    for told in ("m, only in A", "v, only in A", "3 steps of A, 1 to 5", "3 steps of B, 8 to 12"):
        assert f"\n  not compared: {told}\n" in printed.out


def test_options_that_differ(run, tmp_path):
    a = write_run(tmp_path / "a.jsonl", header={"options": {"clip": 1.0}})
    code, printed = run(a, write_run(tmp_path / "b.jsonl"))
    assert code == 0
    assert re.search(r"^  clip +1\.0 +as by default$", printed.out, re.M)


@pytest.mark.parametrize("width", [40, 60, 200])
def test_it_fits_the_terminal(tmp_path, monkeypatch, width):
    monkeypatch.chdir(tmp_path)
    change = at(50, lambda run: flip(run.grads["h.weight"], 20))
    paths = write_run("a.jsonl", steps=300), write_run("b.jsonl", steps=300, before=change)
    lines = diff_as_text(diff(*paths), Style(), width).splitlines()
    picture = [line for line in lines if line.startswith(tuple(f"  {name} " for name in NAMES))]
    assert len(picture) == 3
    assert max(map(len, picture)) <= width
    assert max(map(len, picture)) > width - 12


def test_the_tensors_that_part_first_are_shown_if_there_are_many(tmp_path):
    names = [f"layer.{i}" for i in range(40)]
    header = {"tensors": {name: {"dtype": "float32", "shape": [1], "group": 0} for name in names}}
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for i, path in enumerate(paths):
        with Ledger(path, Header(2, "sgd", {}, 1, ("gradient", "parameter"), **header)) as ledger:
            rows = np.ones((40, 2), np.uint64)
            ledger.start(0, rows)
            rows[30:, 0] += np.uint64(i)
            ledger.add(1, rows, [{"lr": 1.0}])
    text = diff_as_text(diff(*paths), Style(), 100)
    assert [f"layer.{i}" in text for i in (0, 13, 14, 30, 39)] == [True, True, False, True, True]
    assert "16 more tensors, which part later or not at all" in text


def test_letters_and_colours(parted):
    found = diff(*parted)
    assert diff_as_text(found, Style(unicode=False), 100).isascii()
    assert "|" not in diff_as_text(found, Style(unicode=False), 100)
    assert "\033[1;7;31m█\033[0m" in diff_as_text(found, Style(color=True), 100)


@pytest.mark.parametrize("color", [False, True])
def test_names_do_not_steer_the_terminal(tmp_path, color):
    names = ["a\033[2J", "b\r\x9b5A", "c"]
    header = {"tensors": {name: {"dtype": "float32", "shape": [1], "group": 0} for name in names}}
    a = write_run(tmp_path / "a.jsonl", header=header)
    b = write_run(tmp_path / "b.jsonl", header=header, before=at(2, lambda run: flip(run.grads["wte"], 20)))
    text = diff_as_text(diff(a, b), Style(color=color), 100)
    assert "the gradient of a?[2J differs" in text
    assert set(re.findall(r"[\x00-\x1f\x7f-\x9f]", text)) == ({"\n", "\033"} if color else {"\n"})
    assert len(re.findall("\033", text)) == len(re.findall(r"\033\[[\d;]*m", text))


def test_values_are_shown_where_they_are_known(parted):
    lines = [line.strip() for line in diff_as_text(diff(*parted), Style(), 120, values).splitlines()]
    bits = "00111101110011001100110011001101"
    assert re.sub(" +", " ", "\n".join(lines)).count(f"bits {bits} {bits[:-1]}0") == 1
    assert "value      0.10000000149011612                0.09999999403953552" in lines
    told = "h.weight[1, 2], the first of 2 elements that differ: 1 unit of last place apart."
    assert told in lines
    assert any("units of last place apart" in line and "2^32" in line for line in lines)


def test_json(run, parted, equal):
    code, printed = run(*parted, "--json")
    shown = json.loads(printed.out)
    assert code == 1
    assert shown["equal"] is False
    assert shown["steps"] == {"compared": 7, "first": 0, "last": 6}
    assert shown["a"]["digest"] == diff(*parted).a.digest
    assert shown["b"] == {"path": str(parted[1]), "digest": diff(*parted).b.digest, "lines": 8}
    first = shown["first"]
    assert [first[key] for key in ("step", "after", "what", "name", "kind")] == [
        4,
        3,
        "gradient",
        "h.weight",
        "gradient",
    ]
    code, printed = run(*equal, "--json")
    assert code == 0
    assert json.loads(printed.out)["first"] is None


class TestBadInput:
    def test_not_comparable(self, run, tmp_path, parted):
        other = write_run(tmp_path / "other.jsonl", header={"contract": 3})
        code, printed = run(parted[0], other)
        assert code == 2
        assert printed.err == "samestep diff: contract: A has 2 and B has 3\n"
        assert printed.out == ""

    def test_a_broken_line_is_named(self, run, parted):
        data = parted[1].read_bytes()
        parted[1].write_bytes(data.replace(b'"step":4', b'"step":5'))
        code, printed = run(*parted)
        assert code == 2
        assert printed.err.startswith(f"samestep diff: {parted[1]}, line 6: got step 5, expected step 4")

    def test_no_file(self, run, tmp_path, parted):
        code, printed = run(parted[0], tmp_path / "nothing.jsonl")
        assert code == 2
        assert "nothing.jsonl" in printed.err

    @pytest.mark.parametrize(
        ("option", "name", "told"),
        [("--html", ".", "html: got"), ("--png", "a.bmp", "png: got"), ("--html", "no/a.html", "html: ")],
    )
    def test_where_nothing_can_be_written(self, run, tmp_path, parted, option, name, told):
        code, printed = run(*parted, option, tmp_path / name)
        assert code == 2
        assert printed.err.startswith(f"samestep diff: {told}")
        assert printed.out == ""


class TestPage:
    def test_two_runs_side_by_side(self, run, tmp_path, parted):
        code, _ = run(*parted, "--html", tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert code == 1
        assert "PARTED</span> Step 4: the gradient of h.weight differs" in page
        assert page.count('<section class="side">') == 2
        found = diff(*parted)
        for side in (found.a, found.b):
            assert side.digest in page
            shown = re.findall(r'<p class="value">(.*?)</p>', page)[side is found.b]
            assert re.sub("<.*?>", "", shown) == side.records[4].tensors["h.weight"][0]
            assert shown.count('class="first"') == 1
        assert page.count("<circle ") == 1
        for y in (15, 30, 45):  # each row covers all steps
            widths = re.findall(rf'<rect x="\d+" y="{y}" width="(\d+)"', page)
            assert sum(map(int, widths)) == 7 * 24
        assert not re.search(r'(src|href)="(?!data:)', page)

    def test_the_first_bit_is_lit(self, tmp_path, parted):
        write_page(diff(*parted), tmp_path / "page.html", values)
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        for bit in "10":
            assert f'0011110111001100110011001100110<mark class="first">{bit}</mark></p>' in page
        assert "h.weight[1, 2], the first of 2 elements that differ: 1 unit of last place apart" in page

    def test_equal(self, tmp_path, equal):
        write_page(diff(*equal), tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "✓ EQUAL</span> in all of 7 steps" in page
        assert "<mark" not in page
        assert "<circle" not in page

    def test_names_are_text(self, tmp_path):
        """A ledger comes from somebody else: what stands in it is shown and never run."""
        evil = '<script>alert("x")</script>'
        header = {
            "rule": evil,
            "options": {evil: evil},
            "tensors": {
                f"{evil}{i}": {"dtype": "float32", "shape": [1], "group": int(i == 2)} for i in range(3)
            },
        }
        paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
        write_run(paths[0], header=header)
        other = {**header, "options": {}}
        write_run(paths[1], header=other, before=at(2, lambda run: flip(run.grads["wte"], 20)))
        write_page(diff(*paths), tmp_path / "page.html")
        assert "<script" not in (tmp_path / "page.html").read_text(encoding="utf-8")

    @IN_BROWSER
    @pytest.mark.parametrize("width", [390, 1280])
    def test_nothing_sticks_out(self, tmp_path, parted, width):
        write_page(diff(*parted), tmp_path / "page.html", values)
        with Browser() as browser:
            browser.open(tmp_path / "page.html", width)
            wider = """[...document.querySelectorAll("body *")].filter(e => !e.closest(".grid")
              && e.getBoundingClientRect().right > WIDTH + 1).map(e => e.tagName + "." + e.className)"""
            assert browser.run(wider.replace("WIDTH", str(width))) == []
            assert browser.run('document.querySelectorAll(".grid rect").length') >= 3
            assert browser.complaints == []


class TestFigure:
    @pytest.fixture(autouse=True)
    def _needs_matplotlib(self):
        pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'samestep[demo]'")

    @pytest.mark.parametrize("known", [None, values], ids=["fingerprints", "values"])
    def test_it_is_drawn(self, tmp_path, parted, known):
        save_diff_figure(diff(*parted), tmp_path / "figure.svg", known)
        text = (tmp_path / "figure.svg").read_text(encoding="utf-8")
        assert "<!-- step 4: the gradient of h.weight differs -->" in text
        assert "<!-- h.bias -->" in text
        assert ("ulps" in text) == (known is not None)

    def test_as_png(self, run, tmp_path, equal):
        code, _ = run(*equal, "--png", tmp_path / "figure.png")
        assert code == 0
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
