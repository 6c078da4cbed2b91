"""What the assembler gave each kernel of a GPU's code: read from the section .nv.info of the ELF file."""

from __future__ import annotations

import struct
from typing import NamedTuple

import elf

# Attributes, as `cuobjdump -elf` names them: EIATTR_REGCOUNT, EIATTR_FRAME_SIZE.
REGISTERS, FRAME = 0x2F, 0x11
WITH_SIZE = 4  # the format of an attribute that says how long its value is; others hold it in their 4 bytes


class Resources(NamedTuple):
    registers: int  # of a thread
    local_bytes: int  # of a thread, in the GPU's memory: spilled registers, arrays with computed indices
    shared_bytes: int  # of a block of threads: its variables and, from sm_90 on, the 1 KiB that CUDA keeps


def resources(code: bytes) -> dict[str, Resources]:
    """Of each kernel, by its name."""
    (info,) = (s.data for s in elf.sections(code) if s.name == ".nv.info")
    names = [symbol.name for symbol in elf.symbols(code)]
    found: dict[int, dict[str, int]] = {REGISTERS: {}, FRAME: {}}
    at = 0
    while at < len(info):
        kind, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if kind == WITH_SIZE:
            if attribute in found:
                symbol, value = struct.unpack_from("<II", info, at)
                found[attribute][names[symbol]] = value
            at += size
    shared = {s.name.removeprefix(".nv.shared."): s.size for s in elf.sections(code)}
    return {
        name: Resources(count, found[FRAME][name], shared.get(name, 0))
        for name, count in found[REGISTERS].items()
    }
