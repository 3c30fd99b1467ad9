"""What mcap files and ROS 1 bags share: chunks of records, with an index by channel.

A file is opened by its index; without one that can be used, by a walk over its records. A chunk
whose index lies is walked, too.
"""

import struct
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from offrl_data.storage.base import Blocks, Bytes, Ints, Sliced, Storage, StorageError
from offrl_data.storage.compression import DamagedError, Packed, decompress_into

BROKEN = (struct.error, IndexError, ValueError, KeyError, UnicodeDecodeError, OverflowError)
"""What parsing damaged bytes may raise."""
_READ_TOGETHER = 1 << 23  # [bytes], decompressed


class Chunk(Protocol):
    """Where a chunk is."""

    @property
    def offset(self) -> int:
        """In the file [bytes]."""

    @property
    def indexes(self) -> dict[int, int]:
        """Offset in the file of the message index by channel; empty where there is none."""


C = TypeVar("C", bound=Chunk)
_Offsets = Mapping[int, Ints]
"""By channel, where in a chunk its records begin."""
_Waiting = list[tuple[C, Packed, _Offsets | None]]


class Records(NamedTuple):
    """Where records of one channel are in a buffer."""

    begins: Ints
    """(n,)"""
    limits: Ints
    """(n,) where the chunk ends that each is in."""


@dataclass(frozen=True)
class _Loaded(Generic[C]):
    """Chunks decompressed side by side."""

    chunks: list[C]
    offsets: list[_Offsets | None]
    """Of each chunk, what its index says; None where there is no index that can be read."""
    buffer: Bytes
    ends: list[int]
    """0, and where each chunk ends in the buffer."""

    def apart(self) -> Iterator["_Loaded[C]"]:
        """Yield them one by one."""
        bounds = pairwise(self.ends)
        for chunk, found, (begin, end) in zip(self.chunks, self.offsets, bounds, strict=True):
            yield _Loaded([chunk], [found], self.buffer[begin:end], [0, end - begin])


class ChunkedStorage(Storage, Generic[C]):
    """An open file of chunks."""

    magic: bytes
    """What such a file begins with."""
    kind: str
    """What it is called."""

    def __init__(self, path: Path) -> None:
        """Open a file by its index, or by a scan. Raises StorageError."""
        super().__init__(path)
        self._file = path.open("rb")
        self._size = path.stat().st_size
        self._counts: Counter[int] = Counter()
        self.chunks: list[C] = []
        try:
            if self._read(0, len(self.magic)) != self.magic:
                raise StorageError(f"not {self.kind}")
            if not self._read_index():
                self.channels.clear()
                self._counts.clear()
                self.chunks.clear()
                self._scan()
        except BaseException:
            self._file.close()
            raise
        self.channels = {
            key: replace(channel, count=self._counts[key]) for key, channel in self.channels.items()
        }

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def blocks(self, wanted: Collection[int]) -> Blocks:
        """Yield the messages of the wanted channels; chunks without them are not read."""
        for loaded in self._loaded(wanted):
            yield from ((key, block) for key, block in self._found(loaded) if key in wanted)
        yield from ((key, block) for key, block in self._loose_blocks() if key in wanted)

    def _loaded(self, wanted: Collection[int]) -> Iterator[_Loaded[C]]:
        """Yield the chunks that hold wanted channels, or may, a few at once in one buffer.

        What is done per chunk and channel is then done less often.
        """
        waiting: _Waiting[C] = []
        size = 0
        for chunk in self.chunks:
            if chunk.indexes and not any(key in wanted for key in chunk.indexes):
                continue
            packed = self._packed(chunk)
            if packed is None:
                continue
            mine = packed.size if chunk.indexes else _READ_TOGETHER  # walked alone
            if waiting and size + mine > _READ_TOGETHER:
                yield self._unpacked(waiting)
                waiting, size = [], 0
            waiting.append((chunk, packed, self._index(chunk, wanted)))
            size += mine
        yield self._unpacked(waiting)

    def content(self, chunk: C) -> bytes | None:
        """Return a chunk's records, as far as they can be had; None where they cannot."""
        packed = self._packed(chunk)
        loaded = self._unpacked([(chunk, packed, None)] if packed else [])
        return loaded.buffer.tobytes() if loaded.chunks else None

    def _packed(self, chunk: C) -> Packed | None:
        """Return a chunk as it is stored; None, and a loss, where it cannot be used."""
        try:
            return self.stored(chunk)
        except (DamagedError, *BROKEN) as error:
            self._lose(chunk, str(error))
            return None

    def _index(self, chunk: C, wanted: Collection[int]) -> _Offsets | None:
        """Return what the index of a chunk says; None where it cannot be read."""
        try:
            return dict(self._offsets(chunk, wanted)) if chunk.indexes else None
        except BROKEN:
            return None

    def _unpacked(self, waiting: _Waiting[C]) -> _Loaded[C]:
        """Decompress chunks side by side; those that cannot be are left out, with a loss."""
        chunks: list[C] = []
        offsets: list[_Offsets | None] = []
        ends = [0]
        try:
            buffer = np.empty(sum(packed.size for _, packed, _ in waiting), np.uint8)
        except MemoryError:  # few chunks are this large, or one that lies
            for chunk, packed, _ in waiting:
                self._lose(chunk, f"claims {packed.size} bytes, more than there is memory for")
            return _Loaded([], [], np.empty(0, np.uint8), ends)
        for chunk, packed, found in waiting:
            target = buffer[ends[-1] : ends[-1] + packed.size]
            try:
                ends.append(ends[-1] + decompress_into(target, packed))
                chunks.append(chunk)
                offsets.append(found)
            except DamagedError as error:
                self._lose(chunk, str(error))
        return _Loaded(chunks, offsets, buffer[: ends[-1]], ends)

    def _found(self, loaded: _Loaded[C]) -> list[tuple[int, Sliced]]:
        """Return the messages of loaded chunks: together by their indexes, or one by one."""
        try:
            return self._by_index(loaded)
        except BROKEN:
            if len(loaded.chunks) > 1:
                return [each for one in loaded.apart() for each in self._found(one)]
            (chunk,) = loaded.chunks
            if chunk.indexes:
                note = f"chunk at byte {chunk.offset}: index unusable, read record by record"
                self.notes += [note] if note not in self.notes else []
            return self._walked(loaded.buffer.tobytes())

    def _by_index(self, loaded: _Loaded[C]) -> list[tuple[int, Sliced]]:
        """Return the messages that indexes name. Raises one of BROKEN where one lies or lacks."""
        parts: dict[int, list[Ints]] = {}
        ends: dict[int, list[int]] = {}
        for found, (begin, end) in zip(loaded.offsets, pairwise(loaded.ends), strict=True):
            if found is None:
                raise ValueError("no index")
            for key, offsets in found.items():
                if len(offsets):
                    parts.setdefault(key, []).append(offsets + begin)
                    ends.setdefault(key, []).append(end)
        records = {
            key: Records(_sorted(found), np.repeat(ends[key], [len(part) for part in found]))
            for key, found in parts.items()
        }
        return self._sliced(loaded.buffer, records) if records else []

    def _lose(self, chunk: C, reason: str) -> None:
        """Note a chunk that cannot be read, and how many messages its index names."""
        lost = sum(self._index_length(at) for at in chunk.indexes.values())
        self.losses.add(f"chunk at byte {chunk.offset}: {reason}", lost)

    @abstractmethod
    def stored(self, chunk: C) -> Packed:
        """Read a chunk; a loss where it is cut off. Raises DamagedError, or one of BROKEN."""

    @abstractmethod
    def _index_length(self, at: int) -> int:
        """Return how many messages the index record at an offset names; 0 where it is damaged."""

    @abstractmethod
    def _read_index(self) -> bool:
        """Find channels and chunks by the index of the file; return whether it is whole."""

    @abstractmethod
    def _scan(self) -> None:
        """Find channels and chunks by a walk over all records, for want of an index."""

    @abstractmethod
    def _offsets(self, chunk: C, wanted: Collection[int]) -> Iterator[tuple[int, Ints]]:
        """Yield where in a chunk the records of wanted channels begin, by its index.

        Raises one of BROKEN where the index lies.
        """

    @abstractmethod
    def _sliced(self, buffer: Bytes, found: Mapping[int, Records]) -> list[tuple[int, Sliced]]:
        """Return the messages of records by channel.

        Raises one of BROKEN where a record of that channel does not begin there, or ends too late.
        """

    @abstractmethod
    def _walked(self, content: bytes) -> list[tuple[int, Sliced]]:
        """Return the messages of a chunk by channel, found record by record."""

    @abstractmethod
    def _loose_blocks(self) -> Blocks:
        """Yield the messages outside of chunks."""

    def _read(self, offset: int, size: int) -> bytes:
        """Read up to `size` bytes."""
        if not 0 <= offset < self._size:
            return b""
        self._file.seek(offset)
        data = self._file.read(min(size, self._size - offset))
        if self.saw:
            self.saw(offset, data)
        return data


def _sorted(parts: Sequence[Ints]) -> Ints:
    """Join offsets, which are mostly in order, and put them in order."""
    found = np.concatenate(parts)
    return found if (found[1:] >= found[:-1]).all() else np.sort(found, kind="stable")
