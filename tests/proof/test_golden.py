"""The committed digests: all there, met by the kernels everywhere and by the reference, and kept."""

import json

import numpy as np
import pytest

import samestep as ss
from regenerate_golden import FILE, regenerate
from samestep.parallel import run_threads
from samestep.proof import golden

PROGRAMS = golden.programs()


@pytest.fixture(params=PROGRAMS, ids=str)
def group(request):
    """The programs of one kernel and dtype that have a digest: a new kernel has none yet."""
    return [program for program in PROGRAMS[request.param] if str(program) in golden.DIGESTS]


def test_all_there():
    assert len(golden.DIGESTS) >= 440
    assert set(golden.DIGESTS) <= {str(program) for group in PROGRAMS.values() for program in group}


def test_the_changelog_counts_them():
    changelog = (FILE.parents[3] / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"- {len(golden.DIGESTS)} golden digests" in changelog


def test_digests_of_the_specification():
    """Some that came with the contract, from an implementation independent of this one."""
    for name, expected in {
        "sgd float32 exact 1000 5 default": "9d38124c93712e46",
        "adagrad_outside float64 exact 1000 5 default": "d573440f23a1589c",
        "adam_inside float32 exact 1000 5 default": "c231dc48c26992cb",
        "batchnorm float32 5x2500 y": "649bbcc5be9dd347",
        "batchnorm float64 5x2500 statistics": "6ad366131cfacdc5",
        "batchnorm+relu float32 5x2500 gradients": "d2705c829199c62b",
        "leaves float32 1000 6 mean": "2bc25ec76e1d446c",
        "leaves float32 1000 8 mean": "0c72dbc64cc51d11",
        "leaves float32 1000 13 mean": "9efdad297cbaaaee",
        "leaves float64 1000 6 mean": "416758b8c7638e19",
        "leaves float64 1000 8 mean": "2002de138929581e",
        "leaves float64 1000 13 mean": "0a52744206d23c63",
        "linear float32 7x600x5 product": "058a5437064170be",
        "linear float32 7x600x5 y": "3546c6fd22a58b52",
        "linear float32 7x600x5 relu": "ef55aec0ba2eff62",
        "linear float32 7x600x5 gradients": "a5dcfaf8a5b8651e",
        "linear float64 7x600x5 product": "39266d712bf1192b",
        "linear float64 7x600x5 y": "9925b5e28a884de7",
        "linear float64 7x600x5 relu": "267b8e305b080bb9",
        "linear float64 7x600x5 gradients": "e162e49cdcd222c7",
        "mse float32 1500x37 gradient": "7974757a2d177006",
        "mse float64 1500x37 residual": "3a92b75a98e16990",
    }.items():
        assert golden.DIGESTS[name] == expected
    loss, dz = golden.SoftmaxProgram(np.dtype(np.float32), (9, 11)).run()
    assert float(loss[0]).hex() == "0x1.09c83748e38e4p+3"
    assert ss.digest(dz)[:16] == "27e11d87674a33b9"
    for name, fingerprint in {
        ("float32", "integers", 1000): 0xA634B0A0CFD0C2E1,
        ("float64", "integers", 1000): 0x31449EDF9CE1B344,
        ("float32", "random", 0): 0xA706DD2F4D197E6F,
        ("bfloat16", "random", 0): 0xA706DD2F4D197E6F,
    }.items():
        program, halves = golden.FingerprintProgram(*name), divmod(fingerprint, 2**32)
        assert golden.DIGESTS[str(program)] == ss.digest(np.array(halves, np.float64))[:16]


def test_kernels(group, isa, threads):
    for program in group:
        assert golden.program_digest(program, backend="cpu") == golden.DIGESTS[str(program)], str(program)


def check_reference(programs):
    for program in programs:
        found = golden.program_digest(program, backend="reference")
        assert found == golden.DIGESTS[str(program)], str(program)


def test_reference(group):
    check_reference(program for program in group if not golden.is_long(program))


@pytest.mark.more
@pytest.mark.parametrize("kernel", [name for name in PROGRAMS if any(map(golden.is_long, PROGRAMS[name]))])
def test_reference_of_long_programs(kernel):
    check_reference(filter(golden.is_long, PROGRAMS[kernel]))


@pytest.mark.parametrize("size", range(1, 6))
@pytest.mark.parametrize("dtype", golden.DTYPES, ids=str)
def test_a_network_in_leaves_has_one_digest_for_any_number_of_workers(dtype, size):
    whole, in_leaves = PROGRAMS[f"whole run {dtype}"]
    assert (whole.leaves, in_leaves.leaves) == (0, 4)
    found = run_threads(size, lambda group: golden.program_digest(in_leaves, group=group))
    assert found == [golden.DIGESTS[str(in_leaves)]] * size


class TestRegenerate:
    def test_adds_what_is_missing(self, tmp_path):
        file = tmp_path / "golden.json"
        file.write_text(json.dumps({"contract": 1, "digests": {"a": "00"}}), encoding="utf-8")
        assert regenerate(file, 1, {"a": "00", "b": "11"}) == []
        assert json.loads(file.read_text(encoding="utf-8"))["digests"] == {"a": "00", "b": "11"}

    @pytest.mark.parametrize("digests", [{"a": "01", "b": "11"}, {"b": "11"}])
    def test_refuses_to_change_or_drop_one_of_the_same_contract(self, tmp_path, digests):
        file = tmp_path / "golden.json"
        before = json.dumps({"contract": 1, "digests": {"a": "00"}})
        file.write_text(before, encoding="utf-8")
        with pytest.raises(
            SystemExit, match="1 digests of contract version 1 would change or go, such as 'a'"
        ):
            regenerate(file, 1, digests)
        assert file.read_text(encoding="utf-8") == before
        assert regenerate(file, 2, digests) == ["a"]

    def test_nothing_is_missing_from_the_file(self):
        assert json.loads(FILE.read_text(encoding="utf-8"))["digests"] == golden.DIGESTS
