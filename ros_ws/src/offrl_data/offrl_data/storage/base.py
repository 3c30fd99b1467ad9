"""What every storage file gives: its channels, and their messages in blocks.

What cannot be read is counted and put into words; only a file of which nothing can be read raises
an error.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from offrl_contract.field_plan import gathered

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Wire = Literal["cdr", "ros1"]


class StorageError(ValueError):
    """A file of which nothing can be read."""


@dataclass(frozen=True)
class Channel:
    """One publisher's stream of messages of one type."""

    id: int
    topic: str
    type_name: str
    """As package/msg/Name."""
    definition: str
    """Text of the message definition; empty where the file carries none."""
    wire: Wire | str
    """How messages are encoded; one that is neither cdr nor ros1 cannot be decoded."""
    count: int
    """Messages, as the file or its metadata says; -1 where nobody does."""


@dataclass(frozen=True)
class Batch:
    """Messages in one buffer, to be decoded together."""

    buffer: Bytes
    starts: Ints
    """(n,) where each message begins in the buffer."""
    sizes: Ints
    """(n,) [bytes]"""

    def message(self, index: int) -> bytes:
        """Return the bytes of one message."""
        start = int(self.starts[index])
        return self.buffer[start : start + int(self.sizes[index])].tobytes()

    def packed(self) -> "Batch":
        """Return the messages one after another in a buffer of their own."""
        if len(self.sizes) and (self.sizes == self.sizes[0]).all() and self.sizes[0]:
            buffer = rows_at(self.buffer, self.starts, int(self.sizes[0])).reshape(-1)
        else:
            messages = [self.message(row) for row in range(len(self.sizes))]
            buffer = np.frombuffer(b"".join(messages), np.uint8)
        return Batch(buffer, np.cumsum(self.sizes) - self.sizes, self.sizes)


@dataclass(frozen=True)
class Block(ABC):
    """Messages of one channel, in the order of the file; their bytes are had by `pick`."""

    received: Ints
    """(n,) receive stamps [ns]."""
    published: Ints | None
    """(n,) publish stamps [ns]; None where the storage has none."""

    @abstractmethod
    def pick(self, rows: Ints) -> Batch:
        """Return the bytes of some of the messages."""

    def only(self, rows: Ints) -> "Block":
        """Return a block of some of the messages."""
        published = None if self.published is None else self.published[rows]
        return _Part(self.received[rows], published, self, rows)


@dataclass(frozen=True)
class _Part(Block):
    """Some messages of a block."""

    whole: Block
    mine: Ints

    def pick(self, rows: Ints) -> Batch:
        """Return the bytes of some of the messages."""
        return self.whole.pick(self.mine[rows])


@dataclass(frozen=True)
class Sliced(Block):
    """Messages that lie in one buffer already."""

    batch: Batch

    def pick(self, rows: Ints) -> Batch:
        """Return the bytes of some of the messages, where they lie."""
        return Batch(self.batch.buffer, self.batch.starts[rows], self.batch.sizes[rows])


@dataclass(frozen=True)
class Listed(Block):
    """Messages that lie apart: only those that are picked are laid into one buffer."""

    content: Sequence[bytes]
    """Messages, others among them."""
    mine: Ints
    """(n,) which of them are those of this block."""

    def pick(self, rows: Ints) -> Batch:
        """Return the bytes of some of the messages, one after another."""
        picked = [self.content[row] for row in self.mine[rows].tolist()]
        sizes = np.fromiter(map(len, picked), np.int64, len(picked))
        return Batch(np.frombuffer(b"".join(picked), np.uint8), np.cumsum(sizes) - sizes, sizes)


def join(batches: Sequence[Batch]) -> Batch:
    """Lay packed batches one after another."""
    if len(batches) == 1:
        return batches[0]
    buffer = np.concatenate([batch.buffer for batch in batches])
    sizes = np.concatenate([batch.sizes for batch in batches])
    return Batch(buffer, np.cumsum(sizes) - sizes, sizes)


def rows_at(buffer: Bytes, starts: Ints, width: int) -> Bytes:
    """Return `width` bytes from each start (n, width). Raises ValueError beyond the buffer."""
    if width > len(buffer):
        raise ValueError(f"{width} bytes wanted of {len(buffer)}")
    if len(starts) and not 0 <= starts.min() <= starts.max() <= len(buffer) - width:
        raise ValueError(f"{width} bytes from {starts.max()} on lie outside of {len(buffer)}")
    return gathered(buffer, starts, width)


Blocks = Iterator[tuple[int, Block]]
"""Channel ids, each with a block of its messages."""


@dataclass
class Losses:
    """What of a file could not be read."""

    lines: list[str]
    """Each a sentence part: where, what, how much."""
    messages: int = 0
    """Messages known to be lost; broken files may have lost more."""

    def add(self, line: str, messages: int = 0) -> None:
        """Note a loss, once."""
        if line not in self.lines:
            self.lines.append(line)
            self.messages += messages


class Storage(AbstractContextManager["Storage"]):
    """An open storage file."""

    def __init__(self, path: Path) -> None:
        """Open the file and find its channels. Raises StorageError."""
        self.path = path
        self.channels: dict[int, Channel] = {}
        self.losses = Losses([])
        self.notes: list[str] = []
        """What is odd and cost nothing."""
        self.saw: Callable[[int, bytes], None] | None = None
        """Is told the offset and bytes of what is read, where that is most of the file."""

    @abstractmethod
    def blocks(self, wanted: Collection[int]) -> Blocks:
        """Yield the messages of the wanted channels, each channel in the order of the file."""

    def count(self) -> dict[int, int]:
        """Return the messages of each channel; may have to read the whole file."""
        return {key: channel.count for key, channel in self.channels.items()}

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()
