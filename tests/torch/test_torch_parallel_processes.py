"""Processes on the loopback: ddp and fsdp end on the bits of one process, and torch's own way does not."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

from torch_leaves import digests_of_all_ways
from worker_processes import run_processes


@pytest.mark.slow
def test_every_number_of_processes_ends_on_the_bits_of_one(record_property):
    (alone,) = run_processes(1, digests_of_all_ways)
    assert isinstance(alone, dict), alone
    controls = [name for name in alone if name.startswith("stock")]
    stock = {name: {alone[name]} for name in controls}
    for size in (2, 3, 4):
        for found in run_processes(size, digests_of_all_ways):
            assert isinstance(found, dict), found
            for name, digest in found.items():
                if name in stock:
                    stock[name].add(digest)
                else:
                    assert digest == alone[name], f"{size} processes: {name}"
    for name, digest in alone.items():
        way, _, rest = name.partition(" ")
        # Not SGD's zero: torch's own rule, which ddp has there, rounds elsewhere.
        if way in ("wrapped", "fsdp", "repaired") or name.startswith("zero Adam"):
            assert digest == alone[f"ddp {rest}"], name
        if way == "recorded_fsdp":
            assert digest == alone[f"recorded_ddp {rest}"], name
        if way == "missing":
            assert digest == f"leaves: 0 of {rest.split()[1]} were not added; " + (
                "expected each once a step, if need be with weight=0"
            )
        elif way != "stock":
            record_property("shown", f"1 to 4 processes, {name}: {digest[:16]}")
    for ways, different in ((("ddp ", "zero SGD "), 6), (("recorded_ddp ",), 4)):
        assert len({digest for name, digest in alone.items() if name.startswith(ways)}) == different
    assert len(controls) == 4
    for name, found in stock.items():
        assert len(found) > 1, name  # each number of workers on its own bits: what all this is for
