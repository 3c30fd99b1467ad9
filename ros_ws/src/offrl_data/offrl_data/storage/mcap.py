"""MCAP files: chunks read through their indexes; a file without its end, record by record.

Source: the MCAP format specification, https://mcap.dev/spec.
"""

import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from offrl_data.storage.base import Batch, Blocks, Bytes, Channel, Ints, Sliced, rows_at
from offrl_data.storage.chunked import BROKEN, ChunkedStorage, Records
from offrl_data.storage.compression import Packed

MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _INDEX, _CHUNK_INDEX = 2, 3, 4, 5, 6, 7, 8
_STATISTICS, _DATA_END = 0x0B, 0x0F
_HEAD = struct.Struct("<BQ")  # of every record: opcode, length of its content
_INDEX_HEAD = struct.Struct("<BQHI")  # of a message index: also its channel, bytes of its entries
_ENTRY = np.dtype([("time", "<u8"), ("offset", "<u8")])
_RECORD = np.dtype(
    {
        "names": ["op", "size", "channel", "sequence", "log", "publish"],
        "formats": ["u1", "<u8", "<u2", "<u4", "<u8", "<u8"],
    }
)  # of a message, up to its data
_FIXED = _RECORD.itemsize - _HEAD.size
_TEXT_ENCODINGS = ("ros2msg", "ros2idl", "ros1msg")
_LONGEST_RECORD = 1 << 24  # of a schema, channel or index record [bytes]


@dataclass(frozen=True)
class Chunk:
    """Where a chunk is, and the message index records that belong to it."""

    offset: int
    """Of its record in the file."""
    size: int
    """Of its record, header included [bytes]; less than it claims where the file ends."""
    index_size: int = 0
    """Of all its message index records [bytes]."""
    indexes: dict[int, int] = field(default_factory=dict)
    """Offset in the file of the message index by channel; empty where there is none."""


_Found = dict[int, list[int]]
"""Offsets of message records by channel."""


class Mcap(ChunkedStorage[Chunk]):
    """An open .mcap file."""

    magic = MAGIC
    kind = "an mcap file"

    def __init__(self, path: Path) -> None:
        """Open a file. Raises StorageError."""
        self._schemas: dict[int, tuple[str, str, str]] = {}  # name, encoding, text
        self._loose: list[tuple[int, int]] = []  # (offset, end) of runs of records outside chunks
        super().__init__(path)

    def stored(self, chunk: Chunk) -> Packed:
        """Read a chunk; a loss where it is cut off."""
        record = self._read(chunk.offset, chunk.size)
        length = _HEAD.unpack_from(record)[1]
        size, crc, named = struct.unpack_from("<QII", record, 25)
        compression = record[41 : 41 + named].decode()
        (stored,) = struct.unpack_from("<Q", record, 41 + named)
        data = memoryview(record)[49 + named : 49 + named + stored]
        whole = len(record) == length + _HEAD.size
        if not whole:
            where = f"chunk at byte {chunk.offset}"
            self.losses.add(f"{where}: cut off after {len(record)} of {length} bytes")
        return Packed(data, compression, size, crc, whole)

    def _walked(self, content: bytes) -> list[tuple[int, Sliced]]:
        """Return the messages of a chunk by channel."""
        return self._blocks_of(content, self._walk(content, learn=False))

    def _loose_blocks(self) -> Blocks:
        """Yield the messages outside of chunks."""
        for begin, end in self._loose:
            content = self._read(begin, end - begin)
            yield from self._blocks_of(content, self._walk(content, learn=False))

    def _blocks_of(self, content: bytes, found: _Found) -> list[tuple[int, Sliced]]:
        """Return the messages of records that a walk found."""
        records = {
            key: Records(np.array(at, np.int64), np.full(len(at), len(content)))
            for key, at in found.items()
        }
        return self._sliced(np.frombuffer(content, np.uint8), records) if records else []

    def _offsets(self, chunk: Chunk, wanted: Collection[int]) -> Iterator[tuple[int, Ints]]:
        """Yield where the records of wanted channels begin. Raises one of BROKEN."""
        first = min(chunk.indexes.values())
        records = self._read(first, min(chunk.index_size, _LONGEST_RECORD))
        for key, at in chunk.indexes.items():
            if key not in wanted:
                continue
            op, length, owner, width = _INDEX_HEAD.unpack_from(records, at - first)
            if op != _INDEX or owner != key or width + 6 > length:
                raise ValueError("no message index")
            begin = at - first + _INDEX_HEAD.size
            entries = np.frombuffer(records, _ENTRY, width // _ENTRY.itemsize, begin)
            yield key, entries["offset"].astype(np.int64)

    def _sliced(self, buffer: Bytes, found: Mapping[int, Records]) -> list[tuple[int, Sliced]]:
        """Return the messages of records by channel, all in one pass. Raises ValueError."""
        counts = [len(each.begins) for each in found.values()]
        begins, limits = (np.concatenate(each) for each in zip(*found.values(), strict=True))
        heads = rows_at(buffer, begins, _RECORD.itemsize).view(_RECORD)[:, 0]
        starts = begins + _RECORD.itemsize
        sizes = heads["size"].astype(np.int64) - _FIXED
        sound = (heads["op"] == _MESSAGE) & (heads["channel"] == np.repeat(list(found), counts))
        if not (sound & (sizes >= 0) & (sizes <= limits - starts)).all():
            raise ValueError("a message index points elsewhere")
        received, published = (heads[name].astype(np.int64) for name in ("log", "publish"))
        blocks = []
        for key, (first, last) in zip(
            found, pairwise(np.cumsum([0, *counts]).tolist()), strict=True
        ):
            mine = slice(first, last)
            batch = Batch(buffer, starts[mine], sizes[mine])
            blocks.append((key, Sliced(received[mine], published[mine], batch)))
        return blocks

    def _index_length(self, at: int) -> int:
        head = self._read(at, _HEAD.size + 6)
        if len(head) < _HEAD.size + 6 or head[0] != _INDEX:
            return 0
        return int.from_bytes(head[_HEAD.size + 2 :], "little") // _ENTRY.itemsize

    def _read_index(self) -> bool:
        """Read the summary section; return whether it is whole."""
        end = self._size - len(MAGIC)
        footer = end - _HEAD.size - 20
        if footer < len(MAGIC) or self._read(end, len(MAGIC)) != MAGIC:
            return False
        op, length = _HEAD.unpack(self._read(footer, _HEAD.size))
        (start,) = struct.unpack("<Q", self._read(footer + _HEAD.size, 8))
        if (op, length) != (_FOOTER, 20) or not len(MAGIC) <= start < footer:
            return False
        summary = self._read(start, footer - start)
        statistics = None
        try:
            for op, at, size in _records(summary):
                if op == _CHUNK_INDEX:
                    self.chunks.append(_chunk_index(summary[at : at + size], self._size))
                elif op == _STATISTICS:
                    statistics = summary[at : at + size]
                    self._counts.update(_statistics(statistics))
                else:
                    self._learn(op, summary[at : at + size])
        except BROKEN:
            return False
        self.chunks.sort(key=lambda chunk: chunk.offset)
        if statistics is None:
            for chunk in self.chunks:
                self._counts.update({k: self._index_length(at) for k, at in chunk.indexes.items()})
        known = all(key in self.channels for chunk in self.chunks for key in chunk.indexes)
        return bool(self.chunks) and known

    def _scan(self) -> None:
        """Walk all records of the file, for want of a summary that can be used."""
        self._schemas.clear()
        at, ended = len(MAGIC), False
        loose = at
        while at + _HEAD.size <= self._size:
            op, length = _HEAD.unpack(self._read(at, _HEAD.size))
            end = at + _HEAD.size + length
            if op in (_CHUNK, _DATA_END, _FOOTER) or end > self._size or op == 0:
                self._scan_loose(loose, at)
                loose = end
            if op in (_DATA_END, _FOOTER):
                ended = True
                break
            if op == _CHUNK:
                self._scan_chunk(Chunk(at, min(end, self._size) - at))
            if end > self._size or op == 0:
                self.losses.add(f"the file ends inside the record at byte {at}")
                ended = True
                break
            at = end
        if not ended:
            self._scan_loose(loose, at)
            self.losses.add(f"the file ends at byte {self._size} without its end record")
        elif at + _HEAD.size > self._size:
            self.losses.add(f"the file ends at byte {self._size} without its end record")
        if self.losses.lines:
            recovered = sum(self._counts.values())
            self.losses.add(f"no usable summary: read record by record, {recovered} messages")

    def _scan_chunk(self, chunk: Chunk) -> None:
        content = self.content(chunk)
        if content is not None:
            self.chunks.append(chunk)
            self._count(self._walk(content, learn=True))

    def _scan_loose(self, begin: int, end: int) -> None:
        """Keep a run of records outside of chunks, in pieces that fit the memory."""
        at = start = begin
        while at < end:
            size = _HEAD.size + _HEAD.unpack(self._read(at, _HEAD.size))[1]
            if at + size - start > _LONGEST_RECORD and at > start:
                self._keep_loose(start, at)
                start = at
            at += size
        if start < end:
            self._keep_loose(start, end)

    def _keep_loose(self, begin: int, end: int) -> None:
        found = self._walk(self._read(begin, end - begin), learn=True)
        if found:
            self._loose.append((begin, end))
            self._count(found)

    def _count(self, found: _Found) -> None:
        self._counts.update({key: len(starts) for key, starts in found.items()})

    def _walk(self, content: bytes, learn: bool) -> _Found:
        """Find the message records of a buffer; learn its schemas and channels if asked."""
        found: _Found = {}
        end = 0
        for op, at, size in _records(content):
            end = at + size
            if op == _MESSAGE and size >= _FIXED:
                channel = int.from_bytes(content[at : at + 2], "little")
                found.setdefault(channel, []).append(at - _HEAD.size)
            elif learn:
                try:
                    self._learn(op, content[at : at + size])
                except BROKEN as error:
                    self.losses.add(f"a record that describes a channel is damaged: {error}")
        if end < len(content):
            self.losses.add(f"{len(content) - end} bytes of a chunk are no whole records")
        return found

    def _learn(self, op: int, content: bytes) -> None:
        """Take a schema or channel record."""
        if op == _SCHEMA:
            (key,) = struct.unpack_from("<H", content)
            name, at = _string(content, 2)
            encoding, at = _string(content, at)
            text = _string(content, at)[0] if encoding in _TEXT_ENCODINGS else ""
            self._schemas[key] = (name, encoding, text)
        elif op == _CHANNEL:
            key, schema = struct.unpack_from("<HH", content)
            topic, at = _string(content, 4)
            wire, _ = _string(content, at)
            name, _, text = self._schemas.get(schema, ("", "", ""))
            self.channels[key] = Channel(key, topic, _ros2_name(name), text, wire, 0)


def _records(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (opcode, offset of the content, its size) of the whole records in a buffer."""
    at, end = 0, len(content)
    while at + _HEAD.size <= end:
        op, size = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        if at + size > end:
            return
        yield op, at, size
        at += size


def _string(content: bytes, at: int) -> tuple[str, int]:
    """Return a string and where it ends. Raises ValueError where it is cut off."""
    (size,) = struct.unpack_from("<I", content, at)
    end = at + 4 + size
    if end > len(content):
        raise ValueError("a string ends beyond its record")
    return content[at + 4 : end].decode(), end


def _chunk_index(content: bytes, file_size: int) -> Chunk:
    offset, size = struct.unpack_from("<QQ", content, 16)
    (width,) = struct.unpack_from("<I", content, 32)
    entries = np.frombuffer(content, np.dtype([("channel", "<u2"), ("at", "<u8")]), width // 10, 36)
    (index_size,) = struct.unpack_from("<Q", content, 36 + width)
    if not len(MAGIC) <= offset < offset + size <= file_size:
        raise ValueError("a chunk index points outside the file")
    return Chunk(offset, size, index_size, dict(entries.tolist()))


def _statistics(content: bytes) -> dict[int, int]:
    (width,) = struct.unpack_from("<I", content, 42)
    kind = np.dtype([("channel", "<u2"), ("count", "<u8")])
    return dict(np.frombuffer(content, kind, width // kind.itemsize, 46).tolist())


def _ros2_name(name: str) -> str:
    """Return package/msg/Name, also of ROS 1's package/Name."""
    package, _, kind = name.rpartition("/")
    return name if name.count("/") != 1 else f"{package}/msg/{kind}"
