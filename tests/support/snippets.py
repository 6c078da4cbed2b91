"""The fenced blocks of the Markdown pages: Python that is run, and the text that it is said to print."""

import contextlib
import io
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "HACKING.md",
    ROOT / "bench" / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


class Snippet(NamedTuple):
    code: str
    printed: str | None  # None: the page does not say
    line: int


def snippets(page: Path) -> list[Snippet]:
    """The Python blocks of a page, each with the text block that is the next block after it."""
    text = page.read_text(encoding="utf-8")
    found: list[Snippet] = []
    before = ""
    for block in BLOCK.finditer(text):
        language, body = block.groups()
        if language == "python":
            found.append(Snippet(body, None, text.count("\n", 0, block.start()) + 2))
        elif language == "text" and before == "python":
            found[-1] = found[-1]._replace(printed=body)
        before = language
    return found


def package_of(snippet: Snippet) -> str | None:
    """The framework that a block imports."""
    found = re.search(r"^import .*\b(torch|jax)\b", snippet.code, re.M)
    return found and found[1]


def run(page: Path, chosen: list[Snippet]) -> None:
    """Runs blocks of a page one after the other, as a reader would in one session."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for code, printed, line in chosen:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            # Lines are numbered as in the page.
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)
        if printed is not None:
            assert out.getvalue() == printed, f"{page.name}, line {line}"


def pages_with(package: str | None) -> list[Path]:
    return [page for page in PAGES if any(package_of(one) == package for one in snippets(page))]
