"""The scripts of bench/ that stand beside torch run; no time is asserted."""

import json

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'samestep[torch-test]'")

from bench_scripts import check_rows, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("script", ["torch", "convolution"])
def test_a_script_runs(script):
    check_rows(json.loads(run(script, "--json")), cold=True, hot=True)


def test_each_of_the_goals_has_its_rows():
    pytest.importorskip("sklearn")
    found = json.loads(run("goals", "--json"))
    check_rows(found, cold=True, hot=False)
    cases = " ".join(row["case"] for row in found["rows"])
    rules = "SGD", "Momentum", "NAG", "AdaGrad", "RMSProp", "Adam"
    assert all(name in cases for name in (*rules, "300 x 64", "NCHW", "NHWC", "MSE", "bfloat16"))
    assert sum(row["other"]["name"] == "roof" for row in found["rows"]) >= 5


def test_each_part_of_a_whole_run_has_its_rows():
    pytest.importorskip("threadpoolctl")
    pytest.importorskip("sklearn")
    found = json.loads(run("run", "--json"))
    check_rows(found, cold=False, hot=True)
    for name in ("NT float64", "exp float32", "softmax float64", "epoch, batch 32", "epoch, batch 128"):
        assert any(name in row["case"] for row in found["rows"])


def test_two_processes_exchange_gradients():
    found = json.loads(run("ddp", "--json"))
    assert [row["verdict"] for row in found["steps"]] == ["inconclusive"] * 2
    for row in found["use"]:
        assert 0 < row["sent"] <= row["ring"]
    measured = [row["workers"] for row in found["exchange"]["rows"] if row["measured"] is not None]
    assert measured == [1, 2]


def test_workers_have_one_digest_and_torch_more():
    found = json.loads(run("workers", "--json"))
    assert sum(len(row["digests"]) for row in found["rows"]) >= 27  # more with MPI
    assert (
        found["digests"].keys()
        == found["passed"].keys()
        == {"Sharded", "problems.MSE", "ddp", "fsdp", "torch DDP", "torch FSDP2"}
    )
    for name, count in found["digests"].items():
        assert count == 1 or name.startswith("torch")
        assert count > 1 or not name.startswith("torch")
