"""Decompression of chunks and messages: whole where sound, else as far as the bytes go."""

import bz2
import zlib
from collections.abc import Callable
from typing import Any

import lz4.frame
import zstandard

LARGEST_CHUNK = 1 << 30
"""A chunk that claims to be larger is damaged, or meant to exhaust the memory [bytes]."""
_PIECE = 1 << 12
_ERRORS = (zstandard.ZstdError, RuntimeError, OSError, EOFError, ValueError, MemoryError)
_ZSTD = zstandard.ZstdDecompressor()

_WHOLE: dict[str, Callable[[bytes, int], bytes]] = {
    "": lambda data, _: data,
    "none": lambda data, _: data,
    "zstd": lambda data, size: _zstd(data, size),
    "lz4": lambda data, size: lz4.frame.LZ4FrameDecompressor().decompress(data, size + 1),
    "bz2": lambda data, size: bz2.BZ2Decompressor().decompress(data, size + 1),
}
_STREAMS: dict[str, Callable[[], Any]] = {
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "bz2": bz2.BZ2Decompressor,
}
KNOWN = frozenset(_WHOLE)
"""Names of the compressions that can be read."""


class DamagedError(ValueError):
    """Bytes that cannot be decompressed, or not to what their header says."""


def _zstd(data: bytes, size: int) -> bytes:
    known = zstandard.frame_content_size(data)
    if known > size:
        raise DamagedError(f"zstd frame claims more than {size} bytes")
    return _ZSTD.decompress(data, max_output_size=max(size, 1) if known < 0 else 0)


def decompress(data: bytes, compression: str, size: int, crc: int = 0) -> bytes:
    """Return `size` bytes; `crc` is their CRC-32, 0 where unknown. Raises DamagedError."""
    if size > LARGEST_CHUNK:
        raise DamagedError(f"claims {size} bytes")
    if compression not in _WHOLE:
        raise DamagedError(f"unknown compression '{compression}'")
    try:
        content = _WHOLE[compression](data, size)
    except _ERRORS as error:
        raise DamagedError(f"{compression} cannot be decompressed: {error}") from error
    if len(content) != size:
        raise DamagedError(f"holds {len(content)} of {size} bytes")
    if crc and zlib.crc32(content) != crc:
        raise DamagedError("checksum differs")
    return content


def decompress_message(data: bytes) -> bytes:
    """Return a message that was compressed on its own. Raises DamagedError."""
    try:
        return _zstd(data, LARGEST_CHUNK)
    except _ERRORS as error:
        raise DamagedError(str(error)) from error


def decompress_start(data: bytes, compression: str, size: int) -> bytes:
    """Return what can be decompressed from the start of cut-off bytes, `size` bytes at most."""
    limit = min(size, LARGEST_CHUNK)
    if compression not in _STREAMS:
        return data[:limit] if compression in KNOWN else b""
    stream = _STREAMS[compression]()
    parts: list[bytes] = []
    total = 0
    for at in range(0, len(data), _PIECE):
        try:
            parts.append(stream.decompress(data[at : at + _PIECE]))
        except _ERRORS:
            break
        total += len(parts[-1])
        if total >= limit or stream.eof:
            break
    return b"".join(parts)[:limit]
