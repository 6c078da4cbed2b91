"""Two processes on the loopback: DDP, ZeRO and FSDP2 end on the bits of one process."""

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


def test_two_processes_end_on_the_bits_of_one(tmp_path, record_property):
    script = Path(__file__).parents[1] / "support" / "torch_ranks.py"
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "SAMESTEP_THREADS": "1"}
    commands = [[sys.executable, str(script), str(rank), str(tmp_path)] for rank in (0, 1)]
    ranks = [subprocess.Popen(c, env=environment, stderr=subprocess.PIPE, encoding="utf-8") for c in commands]
    try:
        for rank in ranks:
            _, errors = rank.communicate(timeout=300)
            assert rank.returncode == 0, errors[-4000:]
    finally:
        for rank in ranks:
            rank.kill()
    first, second = (
        json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)
    )
    assert first == second
    assert len(first) == 25
    for what, digest in first.items():
        assert digest == first[f"{what.split()[0]} alone"], what
    for what, digest in first.items():
        record_property("shown", f"two processes, {what}: {digest[:16]}")
    assert len(set(first.values())) == 5
