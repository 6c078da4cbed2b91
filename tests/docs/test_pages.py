"""The README, HACKING.md and the pages of docs/: their Python runs, their links lead somewhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import samestep as ss
import snippets
from snippets import PAGES, ROOT

FENCE = re.compile(r"^( *)```.*?^\1```", re.M | re.S)
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(#[^)\s]*)?\)")
name = {"ids": lambda page: str(page.relative_to(ROOT))}


@pytest.mark.parametrize("page", snippets.pages_with(None), **name)
def test_python_runs_and_prints_what_the_page_says(page):
    snippets.run(page, [one for one in snippets.snippets(page) if snippets.package_of(one) is None])


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called, on GitHub as on the site."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, **name)
def test_links_lead_to_files_and_headings(page):
    for path, anchor in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {path}"
        if anchor:
            assert anchor[1:] in anchors(target), f"{page.name}: {path}{anchor}"


@pytest.mark.parametrize("page", ["numerics", "features"])
def test_named_tests_are_in_the_file_that_the_link_before_them_leads_to(page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    named = re.findall(r"\((\.\./tests/[^)]+)\)((?:[\s,]*`(?:test_|Test)[^`]+`)+)", text)
    assert len(named) > 5
    for link, names in named:
        source = (ROOT / "docs" / link).read_text(encoding="utf-8")
        for test in re.findall(r"`(\w+)", names):
            assert re.search(rf"^ *(?:def|class) {test}", source, re.M), f"{link}: no {test}"


def test_every_optimizer_is_in_the_table_of_rules():
    page = (ROOT / "docs" / "guide" / "optimizers.md").read_text(encoding="utf-8")
    public = [optimizer.__name__ for optimizer in ss.optimizers.OPTIMIZERS if hasattr(ss, optimizer.__name__)]
    assert len(public) >= 6
    for optimizer in public:
        assert f"| `{optimizer}`" in page


def test_every_option_is_in_the_guide():
    page = (ROOT / "docs" / "guide" / "options.md").read_text(encoding="utf-8")
    for option in ss.options.OptionArguments.__annotations__:
        assert re.search(rf"^\| `{option}", page, re.M), option


def test_files_that_hacking_names_are_there():
    text = (ROOT / "HACKING.md").read_text(encoding="utf-8")
    for path in re.findall(r"\b(?:tests|csrc|python|bench|docs)/[\w/.-]+\w", text):
        assert (ROOT / path).exists(), path
    assert text.count("\n") <= 70


@pytest.mark.more
def test_the_site_is_complete_and_asks_no_other_host(tmp_path):
    pytest.importorskip("mkdocs", reason="MkDocs is not installed: pip install 'samestep[docs]'")
    for source in ("mkdocs.yml", "README.md", "HACKING.md", "CHANGELOG.md", "CMakeLists.txt"):
        shutil.copy(ROOT / source, tmp_path)
    for folder in ("docs", "bench", "csrc", "examples", "python", "tests"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {str(page.relative_to(tmp_path / "site")): page for page in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "hacking.html", "benchmarks.html", "api/optimizers.html"} <= pages.keys()
    api = "".join(page.read_text(encoding="utf-8") for path, page in pages.items() if path.startswith("api/"))
    for public in [*ss.__all__, *(f"theory.{one}" for one in ss.theory.__all__)]:
        assert f"samestep.{public}" in api, public
    for path, page in pages.items():
        html = page.read_text(encoding="utf-8")
        asked = re.findall(r'<(?:script|link|img|iframe)[^>]* (?:src|href)="(?:https?:)?//[^"]*"', html)
        assert not asked, f"{path}: {asked}"
        assert 'class="arithmatex"' not in html, f"{path}: a formula is not MathML"
