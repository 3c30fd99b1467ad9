"""Messages in blocks: many of one topic in one buffer, to be decoded together.

An mcap chunk is a block as it lies, found through its message index; messages of other storage are
gathered.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.storage_mcap import ChunkInfo, McapReader, decompress
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

GATHERED = 4096
"""Messages that are gathered before they are decoded."""
_AT_ONCE = 64
_GATHERED_BYTES = 1 << 24
# record header, and the fields of a chunk beside the name of its compression
_CHUNK_FIXED = 9 + 8 + 8 + 8 + 4 + 4 + 8
_INDEX_HEADER = 9 + 2 + 4  # record header, channel, length of the array
_INDEX_ENTRY = np.dtype([("time", "<u8"), ("offset", "<u8")])
_MESSAGE = np.dtype(
    {
        "names": ["op", "size", "channel", "sequence", "log", "publish"],
        "formats": ["u1", "<u8", "<u2", "<u4", "<u8", "<u8"],
    }
)
_FIXED = _MESSAGE.itemsize - 9  # of a message record, before its data
_OP_MESSAGE = 0x05


@dataclass(frozen=True)
class Block:
    """Messages of one topic, in the order of the file."""

    buffer: NDArray[np.uint8]
    starts: NDArray[np.int64]
    """(n,) where each message begins in the buffer."""
    sizes: NDArray[np.int64]
    """(n,) [bytes]"""
    received: NDArray[np.int64]
    """(n,) receive stamps [ns]."""

    def message(self, index: int) -> bytes:
        """Return the bytes of one message."""
        start = int(self.starts[index])
        return self.buffer[start : start + int(self.sizes[index])].tobytes()


Blocks = Iterator[tuple[str, Block]]
"""Topics, each with a block of its messages."""


def gather(rows: Iterable[tuple[int, int, bytes]], topics: Mapping[int, str]) -> Blocks:
    """Gather rows (connection id, receive stamp [ns], bytes) into blocks per topic."""
    waiting: list[tuple[int, int, bytes]] = []
    held = 0
    source = iter(rows)
    while some := list(islice(source, _AT_ONCE)):
        waiting += some
        held += sum(len(row[2]) for row in some)
        if len(waiting) >= GATHERED or held > _GATHERED_BYTES:
            yield from _join(waiting, topics)
            waiting, held = [], 0
    if waiting:
        yield from _join(waiting, topics)


def _join(rows: list[tuple[int, int, bytes]], topics: Mapping[int, str]) -> Blocks:
    """Lay rows one after another into one buffer; a block for each topic among them."""
    ids, stamps, content = zip(*rows, strict=True)
    sizes = np.fromiter(map(len, content), np.int64, len(content))
    starts = np.cumsum(sizes) - sizes
    received = np.array(stamps, np.int64)
    buffer = np.frombuffer(b"".join(content), np.uint8)
    connection = np.array(ids)
    for each in np.unique(connection).tolist():
        mine = np.flatnonzero(connection == each)
        yield topics[each], Block(buffer, starts[mine], sizes[mine], received[mine])


def db3_blocks(reader: Sqlite3Reader, connections: list[Connection]) -> Blocks:
    """Read the wanted messages of an open .db3 file by one query, in the order of the file."""
    assert reader.dbconn is not None
    topics = {connection.id: connection.topic for connection in connections}
    marks = ", ".join("?" * len(topics))
    query = f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks})"
    rows: Any = reader.dbconn.execute(query, tuple(topics))
    yield from gather(rows, topics)


def indexed(reader: McapReader) -> bool:
    """Whether every chunk of an open mcap file can be read through its message index."""
    return bool(reader.chunks) and all(chunk.message_index_offsets for chunk in reader.chunks)


def mcap_blocks(reader: McapReader, connections: list[Connection]) -> Blocks:
    """Read the chunks that hold wanted messages, each as it lies. Raises ReaderError."""
    assert reader.bio is not None
    topics = {connection.id: connection.topic for connection in connections}
    for chunk in reader.chunks:
        wanted = [channel for channel in chunk.message_index_offsets if channel in topics]
        if not wanted:
            continue
        buffer = _decompressed(reader.bio, chunk)
        for channel in wanted:
            entries = _index(reader.bio, chunk.message_index_offsets[channel], channel)
            if len(entries):
                yield topics[channel], _indexed_block(buffer, entries, channel)


def _decompressed(file: BinaryIO, chunk: ChunkInfo) -> NDArray[np.uint8]:
    head = _CHUNK_FIXED + len(chunk.compression)
    record = _read(file, chunk.chunk_start_offset, head + chunk.compressed_size)
    crc = int.from_bytes(record[33:37], "little")
    content = decompress(record[head:], chunk.compression, chunk.uncompressed_size, crc)
    return np.frombuffer(content, np.uint8)


def _index(file: BinaryIO, offset: int, channel: int) -> NDArray[np.void]:
    """Return the index entries of one channel in one chunk, in the order of the chunk."""
    head = _read(file, offset, _INDEX_HEADER)
    if head[0] != 0x07 or int.from_bytes(head[9:11], "little") != channel:
        raise ReaderError(f"No message index of channel {channel} at offset {offset}.")
    length = int.from_bytes(head[11:15], "little")
    entries = np.frombuffer(_read(file, offset + _INDEX_HEADER, length), _INDEX_ENTRY)
    return entries[np.argsort(entries["offset"], kind="stable")]


def _indexed_block(buffer: NDArray[np.uint8], entries: NDArray[np.void], channel: int) -> Block:
    offsets = entries["offset"].astype(np.int64)
    if offsets[-1] + _MESSAGE.itemsize > len(buffer):
        raise ReaderError(f"Message index points to byte {offsets[-1]} of {len(buffer)}.")
    heads = buffer[offsets[:, None] + np.arange(_MESSAGE.itemsize)].view(_MESSAGE)[:, 0]
    sizes = heads["size"].astype(np.int64) - _FIXED
    starts = offsets + _MESSAGE.itemsize
    sound = (heads["op"] == _OP_MESSAGE) & (heads["channel"] == channel)
    if not (sound & (sizes >= 0) & (starts + sizes <= len(buffer))).all():
        raise ReaderError("Message index does not point to messages of its channel.")
    return Block(buffer, starts, sizes, heads["log"].astype(np.int64))


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    content = file.read(size)
    if len(content) != size:
        raise ReaderError(f"Truncated at offset {offset}: {len(content)} of {size} bytes.")
    return content
