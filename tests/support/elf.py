"""Sections and symbols of an ELF file of 64 bits: of a shared library, or of a GPU's code (CUBIN)."""

from __future__ import annotations

import struct
from typing import NamedTuple

THREAD_LOCAL = 6  # Symbol.kind


class Section(NamedTuple):
    name: str
    data: bytes  # none of what is zero at first
    size: int
    link: int  # of a list of symbols: the number of the section of their names


class Symbol(NamedTuple):
    name: str
    kind: int
    value: int
    size: int


def _text(names: bytes, at: int) -> str:
    return names[at : names.index(b"\0", at)].decode()


def sections(code: bytes) -> list[Section]:
    assert code[:5] == b"\x7fELF\x02"
    (offset,) = struct.unpack_from("<Q", code, 0x28)
    entry, count, of_names = struct.unpack_from("<3H", code, 0x3A)
    headers = [struct.unpack_from("<IIQQQQII", code, offset + i * entry) for i in range(count)]
    no_data = 8
    parts = [b"" if kind == no_data else code[at : at + size] for _, kind, _, _, at, size, _, _ in headers]
    return [
        Section(_text(parts[of_names], header[0]), part, header[5], header[6])
        for header, part in zip(headers, parts, strict=True)
    ]


def symbols(code: bytes) -> list[Symbol]:
    found = sections(code)
    (table,) = (s for s in found if s.name == ".symtab")
    entries = struct.iter_unpack("<IBBHQQ", table.data)
    names = found[table.link].data
    return [Symbol(_text(names, name), info & 15, value, size) for name, info, _, _, value, size in entries]
