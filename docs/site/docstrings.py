"""Docstrings as Markdown: simple tables of reStructuredText, lists of names, and the examples."""

from __future__ import annotations

import re
from typing import Any

import griffe

RULE = re.compile(r" *=+(?: +=+)+ *")


class AsMarkdown(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if not obj.docstring:
            return
        text = "\n\n".join(map(as_table, obj.docstring.value.split("\n\n")))
        if obj.is_module:
            text = re.sub(
                r"^(\S.*)\n((?:    \S.*(?:\n|\Z))+)",
                lambda found: as_list(obj, *found.groups()),
                text,
                flags=re.M,
            )
        obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.M)


def as_list(module: griffe.Object, heading: str, lines: str) -> str:
    """A heading and indented lines, each a name of the module and what it is, as a list of links."""
    entries = [re.fullmatch(r"    (\w+) {2,}(\S.*)", line) for line in lines.rstrip("\n").split("\n")]
    if not all(entries):
        return f"{heading}\n\n{lines}"
    items = (f"- {link(module, entry[1])}: {entry[2]}\n" for entry in entries if entry)
    return f"**{heading}**\n\n{''.join(items)}"


def link(module: griffe.Object, name: str) -> str:
    member = module.members.get(name)
    return f"`{name}`" if member is None or member.is_module else f"[`{name}`][{module.path}.{name}]"


def as_table(block: str) -> str:
    """A simple table as one of Markdown; any other block as it is."""
    lines = block.strip("\n").splitlines()
    if len(lines) < 3 or not RULE.fullmatch(lines[0]) or not RULE.fullmatch(lines[-1]):
        return block
    starts = [found.start() for found in re.finditer(r"=+", lines[0])]
    has_head = RULE.fullmatch(lines[2]) is not None
    rows: list[list[str]] = []
    for line in (line for line in lines if not RULE.fullmatch(line)):
        cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        if cells[0]:
            rows.append(cells)
        else:  # the line above goes on
            rows[-1] = [f"{above} {cell}".strip() for above, cell in zip(rows[-1], cells, strict=True)]
    head, body = (rows[0], rows[1:]) if has_head else ([""] * len(starts), rows)
    table = [[cell.replace("|", "\\|") for cell in row] for row in (head, ["---"] * len(starts), *body)]
    return "\n".join(f"{' ' * starts[0]}| {' | '.join(row)} |" for row in table)
