"""What MkDocs does for this site beside its own: pages from elsewhere, links out of docs/, formulas.

README.md, HACKING.md, CHANGELOG.md and bench/README.md are pages without being copied; api.py makes those of
the API. A source file that a page links to becomes a page as well: the site needs no other place to show it.
"""

from __future__ import annotations

import html
import posixpath
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import api

ROOT = Path(__file__).parents[2]

# A page of the site: the file of the repository that it shows.
PAGES = {
    "index.md": "README.md",
    "hacking.md": "HACKING.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks.md": "bench/README.md",
}
LANGUAGES = {
    **dict.fromkeys((".h", ".cpp", ".cu"), "cpp"),
    **dict.fromkeys((".py", ".pyi"), "python"),
    ".json": "json",
    ".sh": "bash",
    ".txt": "cmake",  # CMakeLists.txt
}
# What browsers show otherwise than it is meant: a norm's bars grow, and they know no names of spaces.
MATHML = {
    "<mo>&#x02016;</mo>": '<mo stretchy="false">&#x02016;</mo>',
    '"thinmathspace"': '"0.1667em"',
    '"negativethinmathspace"': '"-0.1667em"',
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.M | re.S)


def on_config(config: Any) -> Any:
    """Fills the sections of the navigation that are lists of files."""
    filled = {"Theory": theory_pages(), "API": [{title: path} for path, title in api.titles().items()]}
    config.nav = [{name: filled.get(name, pages)} for entry in config.nav for name, pages in entry.items()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are not files below docs/."""
    made = {page: (ROOT / source).read_text(encoding="utf-8") for page, source in PAGES.items()}
    for path, text in {**made, **api.pages()}.items():
        files.append(File.generated(config, path, content=text))
    linked = (source_links(page.src_uri, page.content_string) for page in files.documentation_pages())
    for path in sorted(set().union(*linked)):
        files.append(File.generated(config, f"source/{path}.md", content=source_page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links to files of the repository into links to their pages, or into their names."""
    here = page.file.src_uri
    if here.startswith("source/"):
        return markdown

    def relink(match: re.Match[str]) -> str:
        image, text, link, anchor = match.groups()
        target = in_repository(here, link)
        shown = page_of(target)
        if shown is None or files.get_file_from_path(shown) is None:
            return text if (ROOT / target).is_dir() else match[0]
        return f"{image}[{text}]({posixpath.relpath(shown, posixpath.dirname(here) or '.')}{anchor or ''})"

    return outside_fences(markdown, lambda text: LINK.sub(relink, text))


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML; arithmatex has found them and left their LaTeX."""
    return re.sub(
        r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>',
        lambda found: f'<{found[1]} class="formula">{mathml(found[2], found[1] == "div")}</{found[1]}>',
        content,
        flags=re.S,
    )


def mathml(latex: str, block: bool) -> str:
    made: str = convert(html.unescape(latex).strip(), display="block" if block else "inline")
    for old, new in MATHML.items():
        made = made.replace(old, new)
    return made


def theory_pages() -> list[str]:
    """The pages of docs/theory, in the order in which its index links to them."""
    folder = ROOT / "docs" / "theory"
    linked = re.findall(r"\]\(([\w-]+\.md)", (folder / "index.md").read_text(encoding="utf-8"))
    found = [path.name for path in sorted(folder.glob("*.md"))]
    order = dict.fromkeys(name for name in ["index.md", *linked, *found] if name in found)
    return [f"theory/{name}" for name in order]


def outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    done, end = [], 0
    for fence in FENCE.finditer(markdown):
        done += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*done, change(markdown[end:])])


def in_repository(page: str, link: str) -> str:
    """The path, from the root of the repository, that a link of a page of the site means."""
    source = PAGES.get(page, f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def page_of(target: str) -> str | None:
    """The page or the picture of the site that shows a file of the repository."""
    for page, source in PAGES.items():
        if target == source:
            return page
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"source/{target}.md" if Path(target).suffix in LANGUAGES else None


def source_links(page: str, markdown: str) -> Iterator[str]:
    for *_, link, _ in LINK.findall(FENCE.sub("", markdown)):
        target = in_repository(page, link)
        if (page_of(target) or "").startswith("source/") and (ROOT / target).is_file():
            yield target


def source_page(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    fence = "`" * (1 + max((len(run) for run in re.findall("`{3,}", text)), default=2))
    head = "---\nsearch: {exclude: true}\nhide: [toc]\n---\n"
    return f"{head}# {path}\n\n{fence}{LANGUAGES[Path(path).suffix]}\n{text}\n{fence}\n"
