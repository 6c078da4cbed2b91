"""Gzip files that a run may have left without an end."""

from __future__ import annotations

import zlib
from typing import NamedTuple

GZIP = zlib.MAX_WBITS | 16  # zlib's word for a stream with gzip's header and checksum
MAGIC = b"\x1f\x8b"
_PIECE = 4096  # bytes: what is lost before a damaged place is less than what they hold


class Unzipped(NamedTuple):
    """What a gzip file holds, as far as it can be read."""

    data: bytes
    is_ended: bool  # nothing may be appended to a stream without an end
    is_damaged: bool


def unzipped(data: bytes) -> Unzipped:
    """The content of all streams of a gzip file."""
    parts: list[bytes] = []
    stream = zlib.decompressobj(GZIP)
    try:
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            while piece:
                if stream.eof:
                    stream = zlib.decompressobj(GZIP)
                parts.append(stream.decompress(piece))
                piece = stream.unused_data
    except zlib.error:
        return Unzipped(b"".join(parts), False, True)
    return Unzipped(b"".join(parts), stream.eof, False)
