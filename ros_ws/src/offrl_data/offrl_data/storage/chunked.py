"""What mcap files and ROS 1 bags share: chunks of records, with an index by channel.

A file is opened by its index; without one that can be used, by a walk over its records. A chunk
whose index lies is walked, too.
"""

import struct
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from offrl_data.storage.base import Blocks, Sliced, Storage, StorageError

BROKEN = (struct.error, IndexError, ValueError, KeyError, UnicodeDecodeError, OverflowError)
"""What parsing damaged bytes may raise."""


class Chunk(Protocol):
    """Where a chunk is."""

    @property
    def offset(self) -> int:
        """In the file [bytes]."""

    @property
    def indexes(self) -> dict[int, int]:
        """Offset in the file of the message index by channel; empty where there is none."""


C = TypeVar("C", bound=Chunk)


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
        for chunk in self.chunks:
            mine = [key for key in chunk.indexes if key in wanted]
            if not mine and chunk.indexes:
                continue
            content = self.content(chunk)
            if content is not None:
                found = self._by_index(chunk, content, mine) or self._walked(content)
                yield from ((key, b) for key, b in found if key in wanted and len(b.received))
        yield from ((key, block) for key, block in self._loose_blocks() if key in wanted)

    def _by_index(self, chunk: C, content: bytes, mine: list[int]) -> list[tuple[int, Sliced]]:
        """Return the messages that the index of a chunk names; none where it lies."""
        try:
            return [(key, self._indexed(content, chunk.indexes[key], key)) for key in mine]
        except BROKEN:
            where = f"chunk at byte {chunk.offset}"
            self.notes.append(f"{where}: index unusable, read record by record")
            return []

    @abstractmethod
    def content(self, chunk: C) -> bytes | None:
        """Return a chunk's records, as far as they can be had; None where they cannot."""

    @abstractmethod
    def _read_index(self) -> bool:
        """Find channels and chunks by the index of the file; return whether it is whole."""

    @abstractmethod
    def _scan(self) -> None:
        """Find channels and chunks by a walk over all records, for want of an index."""

    @abstractmethod
    def _indexed(self, content: bytes, at: int, channel: int) -> Sliced:
        """Return the messages that a message index names. Raises one of BROKEN where it lies."""

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
        return self._file.read(min(size, self._size - offset))
