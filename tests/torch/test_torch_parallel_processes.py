"""Processes on the loopback: ddp and fsdp end on the bits of one process, and torch's own way does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

SCRIPT = Path(__file__).parents[1] / "support" / "torch_leaves.py"


def digests(size, folder, *ways):
    """What each process of ``size`` ends with."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "SAMESTEP_THREADS": "1"}
    commands = [[sys.executable, SCRIPT, str(rank), str(size), folder, *ways] for rank in range(size)]
    ranks = [subprocess.Popen(c, env=environment, stderr=subprocess.PIPE, encoding="utf-8") for c in commands]
    try:
        for rank in ranks:
            _, errors = rank.communicate(timeout=300)
            assert rank.returncode == 0, errors[-4000:]
    finally:
        for rank in ranks:
            rank.kill()
    return [
        json.loads((folder / f"{rank}-of-{size}.json").read_text(encoding="utf-8")) for rank in range(size)
    ]


def test_two_processes_end_on_the_bits_of_one(tmp_path):
    ways = "ddp", "zero", "fsdp", "recorded_ddp", "recorded_fsdp"
    (alone,) = digests(1, tmp_path, *ways)
    assert digests(2, tmp_path, *ways) == [alone, alone]
    recorded = {name: alone.pop(name) for name in list(alone) if name.startswith("recorded")}
    for name, digest in recorded.items():
        assert digest == recorded[name.replace("fsdp", "ddp")], name
    assert len(set(recorded.values())) == 4
    for name, digest in alone.items():
        if name.split()[:2] != ["zero", "SGD"]:  # torch's own, which ddp has there, rounds elsewhere
            assert digest == alone["ddp " + name.partition(" ")[2]], name
    assert len(set(alone.values())) == 6


@pytest.mark.slow
def test_every_number_of_processes_ends_on_the_bits_of_one(tmp_path, record_property):
    (alone,) = digests(1, tmp_path)
    controls = [name for name in alone if name.startswith("stock")]
    stock = {name: {alone[name]} for name in controls}
    for size in (2, 3, 4):
        for found in digests(size, tmp_path):
            for name, digest in found.items():
                if name in stock:
                    stock[name].add(digest)
                else:
                    assert digest == alone[name], f"{size} processes: {name}"
    for name, digest in alone.items():
        way, _, rest = name.partition(" ")
        if way in ("wrapped", "fsdp", "repaired") or name.startswith("zero Adam"):
            assert digest == alone[f"ddp {rest}"], name
        if way == "missing":
            assert digest == f"leaves: 0 of {rest.split()[1]} were not added; " + (
                "expected each once a step, if need be with weight=0"
            )
        elif way != "stock":
            record_property("shown", f"1 to 4 processes, {name}: {digest[:16]}")
    assert len(controls) == 4
    for name, found in stock.items():
        assert len(found) > 1, name  # each number of workers on its own bits: what all this is for
