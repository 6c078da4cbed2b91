"""The page docs/guide/torch-tools.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import names, ranks
from .areas import TITLES, cases
from .cases import VERDICTS, Case, verdicts

HEAD = """# PyTorch's tools

What becomes of samestep.torch's layers and optimizers in the hands of PyTorch's own tools. `tests/torch/walk`
uses each tool twice, with torch's classes and with samestep's, compares what comes out, and wrote this page:

```console
$ PYTHONPATH=tests/torch python -m walk > docs/guide/torch-tools.md
```

"Layer" is samestep.torch's batch norm in a small network. With relu=True it is compared with torch.nn's batch
norm and a ReLU behind it. "Optimizers" are all five classes. The verdicts:

"""


def row(case: Case) -> tuple[tuple[str, ...], list[str]]:
    """The cells of a case, by running it, and why a verdict is "differs"."""
    cells, reasons = ranks.of(case) if case.processes == 2 else verdicts(case)
    return (f"`{case.tool}`", *cells), reasons


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def in_order() -> list[Case]:
    """The cases, area by area."""
    return [case for area in TITLES for case in cases() if case.area == area]


def page(words: Sequence[str] = ()) -> str:
    """The page, or of it the tools whose names hold one of ``words``."""
    lines = [HEAD + "\n".join(f"- **{verdict}**: {meaning}." for verdict, meaning in VERDICTS.items()), ""]
    for area, title in TITLES.items():
        lines += [
            f"## {title}",
            "",
            "| tool | layer | layer with relu=True | optimizers |",
            "|---|---|---|---|",
        ]
        for case in in_order():
            if case.area == area and (not words or any(word in f"{area} {case.tool}" for word in words)):
                cells, reasons = row(case)
                sys.stderr.writelines(f"{reason}\n" for reason in reasons)
                lines.append(line(cells))
        lines.append("")
    lines += ["## Names that the walk leaves out", "", "| module | names | they are |", "|---|---|---|"]
    for module, reasons in names.ELSEWHERE.items():
        for reason, patterns in reasons.items():
            lines.append(line([f"`{module}`", f"`{patterns}`", reason]))
    lines.append("")
    return "\n".join(lines)
