"""docs/theory/*.md: each snippet runs by itself, every formula has one, and pictures are drawn."""

import ast
import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "theory"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted(FOLDER.glob("*.md"))}
SNIPPET = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^)#]*)(?:#([^)]+))?\)")


def without_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def sections(page):
    """(heading, text) of each section of a page."""
    parts = re.split(r"^## (.+)\n", PAGES[page], flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


SNIPPETS = [
    pytest.param(code, printed, id=f"{page}: {heading}"[:60])
    for page in PAGES
    for heading, text in sections(page)
    for code, printed in SNIPPET.findall(text)
]


@pytest.mark.parametrize(("code", "printed"), SNIPPETS)
def test_a_snippet_prints_what_the_page_says(code, printed, capsys):
    pytest.importorskip("scipy")
    exec(compile(code, "docs/theory", "exec"), {})
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("page", PAGES)
def test_every_formula_has_a_snippet_and_the_function_that_computes_it(page):
    for heading, text in sections(page):
        if "$$" in text:
            assert SNIPPET.search(text), f"{page}, {heading}: a formula without a snippet"
            assert re.search(r"\*Functions?\*", text), f"{page}, {heading}: a formula without a function"
        assert text.count("```python") == len(SNIPPET.findall(text)), f"{page}, {heading}: no output"


@pytest.mark.parametrize("page", PAGES)
def test_a_function_is_in_the_file_that_its_link_leads_to(page):
    for picture, label, path, _ in LINK.findall(without_code(PAGES[page])):
        assert not picture or label, f"{page}: {path} without words for those who cannot see it"
        if path.endswith(".py") and "/tests/" not in path:
            names = {name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)`", label)}
            found = defined(FOLDER / path)
            assert names <= found, f"{page}: {path} does not define {names - found}"


def test_headings_have_the_same_anchor_on_github_and_in_mkdocs():
    assert all(heading.isascii() for page in PAGES for heading, _ in sections(page))


def defined(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def test_every_picture_is_shown_and_is_svg():
    shown = {path for text in PAGES.values() for picture, _, path, _ in LINK.findall(text) if picture}
    assert shown == {picture.name for picture in FOLDER.glob("*.svg")}
    for name in shown:
        assert ET.parse(FOLDER / name).getroot().tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.thread_unsafe(reason="matplotlib's settings are the process's")
def test_the_script_draws_every_picture():
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("pictures", FOLDER / "pictures.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert {f"{name}.svg" for name in script.PICTURES} == {picture.name for picture in FOLDER.glob("*.svg")}
    text = script.standalone(script.svg.draw("edges", "edges", script.momentum_edges))
    assert ET.fromstring(text).get("viewBox")
    assert "#0000" not in text  # every colour has a name


def test_the_index_lists_every_chapter():
    listed = re.findall(r"^\d+\. \[[^\]]+\]\((\w+\.md)\)", PAGES["index.md"], re.MULTILINE)
    assert [*sorted(listed), "index.md"] == sorted(PAGES, key=lambda page: (page == "index.md", page))


@pytest.mark.parametrize("page", PAGES)
def test_formulas_survive_markdown(page):
    """GitHub's Markdown takes a backslash before punctuation away, and * may begin emphasis."""
    formulas = re.findall(r"\$\$.*?\$\$|\$[^$]+\$", without_code(PAGES[page]), re.DOTALL)
    assert not [formula for formula in formulas if re.search(r"\\[^A-Za-z ]|\*", formula)]
    assert not [f for f in formulas if not f.startswith("$$") and "\n" in f], "a formula over two lines"
