"""Decompression of chunks and messages: whole where sound, else as far as the bytes go."""

import bz2
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lz4.frame
import numpy as np
import zstandard
from numpy.typing import NDArray

LARGEST_CHUNK = 1 << 30
"""A chunk that claims to be larger is damaged, or meant to exhaust the memory [bytes]."""
_PIECE = 1 << 12
_ERRORS = (zstandard.ZstdError, RuntimeError, OSError, EOFError, ValueError, MemoryError)
_ZSTD = zstandard.ZstdDecompressor()

_WHOLE: dict[str, Callable[[bytes | memoryview, int], bytes | memoryview]] = {  # beside zstd
    "": lambda data, _: data,
    "none": lambda data, _: data,
    "lz4": lambda data, size: lz4.frame.LZ4FrameDecompressor().decompress(data, size + 1),
    "bz2": lambda data, size: bz2.BZ2Decompressor().decompress(data, size + 1),
}
_STREAMS: dict[str, Callable[[], Any]] = {
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "bz2": bz2.BZ2Decompressor,
}
KNOWN = frozenset(_WHOLE) | {"zstd"}
"""Names of the compressions that can be read."""


class DamagedError(ValueError):
    """Bytes that cannot be decompressed, or not to what their header says."""


@dataclass(frozen=True)
class Packed:
    """A chunk as it is stored."""

    data: bytes | memoryview
    compression: str
    size: int
    """Decompressed, as it claims [bytes]."""
    crc: int = 0
    """CRC-32 of what is decompressed; 0 where unknown."""
    whole: bool = True
    """False where the file ends before the data does."""

    def __post_init__(self) -> None:
        """Raise DamagedError for a claim that nobody would make."""
        if self.size > LARGEST_CHUNK:
            raise DamagedError(f"claims {self.size} bytes")
        if self.compression not in KNOWN:
            raise DamagedError(f"unknown compression '{self.compression}'")


def decompress_into(target: NDArray[np.uint8], packed: Packed) -> int:
    """Write what a chunk holds to a target of its size; return how much. Raises DamagedError."""
    if not packed.whole:
        start = decompress_start(packed.data, packed.compression, packed.size)
        target[: len(start)] = np.frombuffer(start, np.uint8)
        return len(start)
    try:
        if packed.compression == "zstd":
            with _ZSTD.stream_reader(packed.data) as stream:
                count = stream.readinto(target)
                more = stream.read(1)
        else:
            content = _WHOLE[packed.compression](packed.data, packed.size)
            count, more = len(content), b""
            target[:count] = np.frombuffer(content, np.uint8)[: packed.size]
    except _ERRORS as error:
        raise DamagedError(f"{packed.compression} cannot be decompressed: {error}") from error
    if count != packed.size or more:
        raise DamagedError(f"holds {count + len(more)} of {packed.size} bytes")
    if packed.crc and zlib.crc32(target.data) != packed.crc:
        raise DamagedError("checksum differs")
    return count


def decompress_message(data: bytes) -> bytes:
    """Return a message that was compressed on its own. Raises DamagedError."""
    try:
        known = zstandard.frame_content_size(data)
        if known > LARGEST_CHUNK:
            raise DamagedError(f"claims {known} bytes")
        return _ZSTD.decompress(data, max_output_size=LARGEST_CHUNK if known < 0 else 0)
    except _ERRORS as error:
        raise DamagedError(str(error)) from error


def decompress_start(data: bytes | memoryview, compression: str, size: int) -> bytes:
    """Return what can be decompressed from the start of cut-off bytes, `size` bytes at most."""
    limit = min(size, LARGEST_CHUNK)
    if compression not in _STREAMS:
        return bytes(data[:limit]) if compression in KNOWN else b""
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
