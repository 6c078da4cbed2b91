"""Merkle trees over the tensors of a record: by the root, one tensor can be checked without the others.

A leaf is ``sha256(0x00, [name, entry] as JSON)``, with the entry as it stands in the line, and an inner node
``sha256(0x01, left, right)``; the left part of n leaves is the largest power of two below n.

Source: Laurie, Langley & Kasper, RFC 6962 (2013), section 2.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from .lines import as_text, to_json

# From the leaf up: "left" or "right", where the other node lies, and its sha256.
Proof = list[tuple[str, str]]


def root_of(tensors: Mapping[str, Any]) -> str:
    """The root over the entries of ``Record.tensors``, in hexadecimal digits.

    Example:
        >>> from samestep.ledger import merkle
        >>> tensors = {"w": ("a634b0a0cfd0c2e1", "31449edf9ce1b344"), "b": None}
        >>> proof = merkle.proof_of(tensors, "w")
        >>> merkle.is_proved(merkle.root_of(tensors), "w", tensors["w"], proof)
        True
    """
    return _root([_leaf(name, entry) for name, entry in tensors.items()]).hex()


def proof_of(tensors: Mapping[str, Any], name: str) -> Proof:
    """What shows that a tensor is under the root: the nodes beside its way up; log2 of the tensors' number.

    Raises:
        KeyError: there is no tensor of this name.
    """
    names = list(tensors)
    if name not in tensors:
        raise KeyError(f"name: got {name!r}, expected one of the record's: {', '.join(names)}")
    nodes = [_leaf(key, entry) for key, entry in tensors.items()]
    proof: Proof = []
    at = names.index(name)
    while len(nodes) > 1:
        half = _left_part(len(nodes))
        left, right = nodes[:half], nodes[half:]
        if at < half:
            proof.append(("right", _root(right).hex()))
            nodes = left
        else:
            proof.append(("left", _root(left).hex()))
            nodes, at = right, at - half
    return proof[::-1]


def is_proved(root: str, name: str, entry: Any, proof: Proof) -> bool:
    """Whether a tensor's entry is under the root, by what ``proof_of`` returned."""
    node = _leaf(name, entry)
    for side, other in proof:
        pair = (bytes.fromhex(other), node) if side == "left" else (node, bytes.fromhex(other))
        node = _node(*pair)
    return node.hex() == root


def _root(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) <= 1:
        return leaves[0] if leaves else hashlib.sha256().digest()
    half = _left_part(len(leaves))
    return _node(_root(leaves[:half]), _root(leaves[half:]))


def _left_part(n: int) -> int:
    return 1 << (n - 1).bit_length() - 1


def _leaf(name: str, entry: Any) -> bytes:
    return hashlib.sha256(b"\0" + to_json([name, as_text(entry)]).encode()).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
