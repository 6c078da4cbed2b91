"""The two processes of the cases that need them. A rank: python -m walk.ranks RANK FOLDER [WORD ...]."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from .cases import DIFFERS, Case, verdicts

Row = tuple[tuple[str, ...], list[str]]


@functools.cache
def rows(words: Sequence[str] = ()) -> dict[str, Row]:
    """By tool what ``cases.verdicts`` says in two processes, which must agree."""
    support = Path(__file__).parents[1]
    paths = [str(support), *sys.path]
    environment = {
        **os.environ,
        "GLOO_SOCKET_IFNAME": "lo",
        "TP_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = [
            [sys.executable, "-W", "ignore", "-m", "walk.ranks", str(rank), name, *words] for rank in (0, 1)
        ]
        ranks = [
            subprocess.Popen(c, env=environment, stderr=subprocess.PIPE, encoding="utf-8") for c in commands
        ]
        try:
            for rank in ranks:
                _, errors = rank.communicate(timeout=300)
                if rank.returncode:
                    raise RuntimeError(errors[-4000:])
        finally:
            for rank in ranks:
                rank.kill()
        first, second = (json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    found = {}
    for tool, (cells, reasons) in first.items():
        others, more = second[tool]
        agreed = [one if one == two else DIFFERS for one, two in zip(cells, others, strict=True)]
        found[tool] = (tuple(agreed), [*reasons, *more])
    return found


def of(case: Case) -> Row:
    return rows()[case.tool]


def _main(rank: int, folder: Path, words: Sequence[str]) -> None:
    import torch.distributed as dist

    from .areas import cases

    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for case in cases():
        if case.processes == 2 and (not words or any(word in case.tool for word in words)):
            found[case.tool] = verdicts(case)
            dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    os._exit(0)  # as torch_ranks.py does: taking torch's threads down has ended in abort()


if __name__ == "__main__":
    _main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
