"""By the root of a record, one tensor's entry can be checked without the others."""

import hashlib

import pytest

from ledgers import write_run
from samestep.ledger import merkle, read_ledger

SIZES = range(1, 34)


def tensors_of(n):
    """Entries as records have them, one of a tensor that was not stepped."""
    entries = {f"layer.{i}": (f"{i:016x}", f"{7 * i:016x}") for i in range(n)}
    return {**entries, "layer.2": None} if n > 2 else entries


@pytest.mark.parametrize("n", SIZES)
def test_every_tensor_is_proved_and_no_other_entry(n):
    tensors = tensors_of(n)
    root = merkle.root_of(tensors)
    for name, entry in tensors.items():
        proof = merkle.proof_of(tensors, name)
        assert len(proof) <= (n - 1).bit_length()
        assert merkle.is_proved(root, name, entry, proof)
        assert not merkle.is_proved(root, name, ("0" * 16, "f" * 16), proof)
        assert not merkle.is_proved(root, f"{name}.", entry, proof)
        assert not merkle.is_proved("0" * 64, name, entry, proof)
        for i, (side, node) in enumerate(proof):
            for wrong in ({"left": "right", "right": "left"}[side], node), (side, node[::-1]):
                assert not merkle.is_proved(root, name, entry, [*proof[:i], wrong, *proof[i + 1 :]])
            assert not merkle.is_proved(root, name, entry, proof[:i] + proof[i + 1 :])
        assert not merkle.is_proved(root, name, entry, [*proof, ("left", "0" * 64)])


@pytest.mark.parametrize("n", SIZES)
def test_every_change_of_a_record_changes_the_root(n):
    tensors = tensors_of(n)
    roots = {merkle.root_of(tensors)}
    for name in tensors:
        roots.add(merkle.root_of({**tensors, name: ("f" * 16, "f" * 16)}))
        if n > 1:
            roots.add(merkle.root_of({key: entry for key, entry in tensors.items() if key != name}))
    assert len(roots) == 1 + n * (2 if n > 1 else 1)


def test_the_tree_is_that_of_the_rfc():
    def sha(data):
        return hashlib.sha256(data).digest()

    a, b, c = (sha(b'\0["%s","0 1"]' % name) for name in (b"a", b"b", b"c"))
    expected = sha(b"\1" + sha(b"\1" + a + b) + c)
    assert merkle.root_of(dict.fromkeys("abc", ("0", "1"))) == expected.hex()


def test_an_inner_node_is_no_leaf():
    tensors = tensors_of(4)
    root = merkle.root_of(tensors)
    (_, left), (_, right) = merkle.proof_of(tensors, "layer.3")[1], merkle.proof_of(tensors, "layer.0")[1]
    assert not merkle.is_proved(root, left, right, [])


def test_a_name_that_is_not_there():
    with pytest.raises(KeyError, match=r"'x', expected one of the record's: layer\.0, layer\.1"):
        merkle.proof_of(tensors_of(2), "x")


def test_the_root_of_a_line_is_that_of_its_tensors(tmp_path):
    for record in read_ledger(write_run(tmp_path / "run.jsonl", merkle=True)).records:
        assert record.root == merkle.root_of(record.tensors)
    assert {record.root for record in read_ledger(write_run(tmp_path / "b.jsonl")).records} == {None}
