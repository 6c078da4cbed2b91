"""Writes the golden digests that python/samestep/proof/golden.json lacks, from the reference.

A digest that is there stays: if one would change, the contract's version (CONTRACT in
python/samestep/backends/cpu.py) must be raised first, with a line in CHANGELOG.md; without that the script
refuses and writes nothing.

    python tests/support/regenerate_golden.py
"""

import json
import sys
from pathlib import Path

from samestep.backends import cpu
from samestep.proof import golden

FILE = Path(__file__).parents[2] / "python" / "samestep" / "proof" / "golden.json"


def regenerate(file: Path, contract: int, digests: dict[str, str]) -> list[str]:
    """Adds digests to the file; returns the names that were changed, none unless contract was raised."""
    old = json.loads(file.read_text(encoding="utf-8"))
    changed = sorted(
        name
        for name in old["digests"].keys() | digests.keys()
        if name in old["digests"] and digests.get(name) != old["digests"][name]
    )
    if changed and contract <= old["contract"]:
        raise SystemExit(
            f"{len(changed)} digests of contract version {old['contract']} would change or go, such as "
            f"{changed[0]!r}; raise CONTRACT in python/samestep/backends/cpu.py if that is meant"
        )
    file.write_text(json.dumps({"contract": contract, "digests": digests}, indent=1) + "\n", encoding="utf-8")
    return changed


if __name__ == "__main__":
    made = {
        str(program): golden.program_digest(program, backend="reference")
        for group in golden.programs().values()
        for program in group
    }
    for name in regenerate(FILE, cpu.CONTRACT, made):
        print(f"changed: {name}", file=sys.stderr)
    print(f"{FILE.name}: {len(made)} digests of contract version {cpu.CONTRACT}")
