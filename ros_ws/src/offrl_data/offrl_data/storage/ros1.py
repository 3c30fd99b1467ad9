"""ROS 1 .bag files: chunks read through their index records; without an index, by a scan.

Source: the bag format 2.0, http://wiki.ros.org/Bags/Format/2.0.
"""

import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from offrl_data.storage.base import (
    Batch,
    Blocks,
    Bytes,
    Channel,
    Ints,
    Sliced,
    StorageError,
    rows_at,
)
from offrl_data.storage.chunked import BROKEN, ChunkedStorage, Records
from offrl_data.storage.compression import Packed

MAGIC = b"#ROSBAG V2.0\n"
_MESSAGE, _BAG, _INDEX, _CHUNK, _CHUNK_INFO, _CONNECTION = 2, 3, 4, 5, 6, 7
_ENTRY = np.dtype([("sec", "<u4"), ("nsec", "<u4"), ("offset", "<u4")])
_LARGEST_HEADER = 1 << 20  # [bytes]

Header = dict[bytes, bytes]


@dataclass(frozen=True)
class _Record:
    """A record of the file: its header, and where its data is."""

    header: Header
    offset: int
    """Of the data."""
    size: int
    """Of the data [bytes], as the record claims."""

    @property
    def op(self) -> int:
        return self.header.get(b"op", b"\xff")[0]

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True)
class _Chunk:
    """A chunk, and where the index record of each of its connections is."""

    record: _Record
    indexes: dict[int, int] = field(default_factory=dict)

    @property
    def offset(self) -> int:
        return self.record.offset


class Ros1Bag(ChunkedStorage[_Chunk]):
    """An open ROS 1 .bag file."""

    magic = MAGIC
    kind = "a ROS 1 bag of format 2.0"

    def __init__(self, path: Path) -> None:
        """Open a bag. Raises StorageError."""
        self._loose: list[_Record] = []
        super().__init__(path)

    def stored(self, chunk: _Chunk) -> Packed:
        """Read a chunk; a loss where it is cut off."""
        record = chunk.record
        data = self._read(record.offset, record.size)
        compression = record.header[b"compression"].decode()
        whole = len(data) == record.size
        if not whole:
            where = f"chunk at byte {record.offset}"
            self.losses.add(f"{where}: cut off after {len(data)} of {record.size} bytes")
        return Packed(data, compression, _number(record.header[b"size"]), whole=whole)

    def _walked(self, content: bytes) -> list[tuple[int, Sliced]]:
        """Return the messages of a chunk by connection."""
        found = self._walk(content, learn=False)
        return [(key, _rows(content, rows)) for key, rows in found.items()]

    def _loose_blocks(self) -> Blocks:
        """Yield the messages outside of chunks."""
        for record in self._loose:
            data = self._read(record.offset, record.size)
            stamp = _stamp(record.header[b"time"])
            yield _number(record.header[b"conn"]), _rows(data, [(0, len(data), stamp)])

    def _offsets(self, chunk: _Chunk, wanted: Collection[int]) -> Iterator[tuple[int, Ints]]:
        """Yield where the records of wanted connections begin. Raises one of BROKEN."""
        for key, at in chunk.indexes.items():
            if key not in wanted:
                continue
            record = self._record(at)
            if record is None or record.op != _INDEX:
                raise ValueError("no index record")
            entries = np.frombuffer(self._read(record.offset, record.size), _ENTRY)
            yield key, entries["offset"].astype(np.int64)

    def _sliced(self, buffer: Bytes, found: Mapping[int, Records]) -> list[tuple[int, Sliced]]:
        """Return the messages of records by connection. Raises one of BROKEN."""
        return [(key, self._of_connection(buffer, key, each)) for key, each in found.items()]

    @staticmethod
    def _of_connection(buffer: Bytes, channel: int, found: Records) -> Sliced:
        """Return the messages of the records of a connection. Raises one of BROKEN.

        The headers of one connection differ in their time alone: that of the first message is
        parsed, the others are compared with it.
        """
        offsets = found.begins
        first = int(offsets[0])
        width = int.from_bytes(buffer[first : first + 4].tobytes(), "little")
        head = buffer[first : first + 4 + width].tobytes()
        fields = _fields(head[4:])
        if fields.get(b"op") != bytes([_MESSAGE]) or _number(fields[b"conn"]) != channel:
            raise ValueError("an index points elsewhere")
        time = head.index(b"time=") + 5
        heads = rows_at(buffer, offsets, len(head) + 4)
        template = np.frombuffer(head, np.uint8)
        differs = heads[:, : len(head)] != template
        differs[:, time : time + 8] = False
        if differs.any():
            raise ValueError("the headers of a connection differ")
        clock = np.ascontiguousarray(heads[:, time : time + 8]).view("<u4").astype(np.int64)
        sizes = np.ascontiguousarray(heads[:, len(head) :]).view("<u4")[:, 0].astype(np.int64)
        starts = offsets + len(head) + 4
        if (sizes > found.limits - starts).any():
            raise ValueError("a message ends outside its chunk")
        received = clock[:, 0] * 1_000_000_000 + clock[:, 1]
        return Sliced(received, None, Batch(buffer, starts, sizes))

    def _index_length(self, at: int) -> int:
        record = self._record(at)
        return record.size // _ENTRY.itemsize if record and record.op == _INDEX else 0

    def _read_index(self) -> bool:
        """Read connections and chunk infos at the end of the file; return whether it is whole.

        Raises StorageError for a file that nothing can be read of.
        """
        header = self._record(len(MAGIC))
        if header is None or header.op != _BAG:
            raise StorageError("its first record is no bag header")
        if header.header.get(b"encryptor"):
            name = header.header[b"encryptor"].decode(errors="replace")
            raise StorageError(f"encrypted ({name})")
        try:
            at = struct.unpack("<Q", header.header[b"index_pos"])[0]
            connections = _number(header.header[b"conn_count"])
            chunks = _number(header.header[b"chunk_count"])
            if not header.end <= at <= self._size:
                return False
            for _ in range(connections + chunks):
                record = self._record(at)
                if record is None or record.end > self._size:
                    return False
                if record.op == _CONNECTION:
                    self._learn(record.header, self._read(record.offset, record.size))
                elif record.op == _CHUNK_INFO:
                    self._learn_chunk(record)
                at = record.end
        except BROKEN:
            return False
        self.chunks.sort(key=lambda chunk: chunk.record.offset)
        return len(self.channels) == connections and len(self.chunks) == chunks

    def _learn_chunk(self, info: _Record) -> None:
        """Take a chunk info: find the chunk and the index records behind it. Raises ValueError."""
        record = self._record(struct.unpack("<Q", info.header[b"chunk_pos"])[0])
        if record is None or record.op != _CHUNK or record.end > self._size:
            raise ValueError("a chunk info points elsewhere")
        counts = np.frombuffer(self._read(info.offset, info.size), "<u4").reshape(-1, 2)
        self._counts.update(dict(counts.tolist()))
        indexes: dict[int, int] = {}
        at = record.end
        for _ in range(len(counts)):
            index = self._record(at)
            if index is None or index.op != _INDEX:
                raise ValueError("an index record is missing")
            indexes[_number(index.header[b"conn"])] = at
            at = index.end
        self.chunks.append(_Chunk(record, indexes))

    def _scan(self) -> None:
        """Walk all records of the file, for want of an index that can be used."""
        first = self._record(len(MAGIC))
        at = first.end if first else self._size
        while at < self._size:
            record = self._record(at)
            if record is None:
                self.losses.add(f"the file ends inside the record at byte {at}")
                break
            if record.op == _CHUNK:
                chunk = _Chunk(record)
                content = self.content(chunk)
                if content is not None:
                    self.chunks.append(chunk)
                    found = self._walk(content, learn=True)
                    self._counts.update({key: len(rows) for key, rows in found.items()})
            elif record.end <= self._size:
                self._scan_loose(record)
            at = record.end
        recovered = sum(self._counts.values())
        self.losses.add(f"no usable index: read record by record, {recovered} messages")

    def _scan_loose(self, record: _Record) -> None:
        try:
            if record.op == _CONNECTION:
                self._learn(record.header, self._read(record.offset, record.size))
            elif record.op == _MESSAGE:
                self._counts[_number(record.header[b"conn"])] += 1
                _stamp(record.header[b"time"])
                self._loose.append(record)
        except BROKEN as error:
            self.losses.add(f"the record before byte {record.offset} is damaged: {error}")

    def _walk(self, content: bytes, learn: bool) -> "dict[int, list[tuple[int, int, int]]]":
        """Find the messages (start, size, stamp [ns]) of a chunk by connection."""
        found: dict[int, list[tuple[int, int, int]]] = {}
        end = 0
        for header, at, size in _records(content):
            end = at + size
            op = header.get(b"op", b"\xff")[0]
            try:
                if op == _MESSAGE:
                    row = (at, size, _stamp(header[b"time"]))
                    found.setdefault(_number(header[b"conn"]), []).append(row)
                elif op == _CONNECTION and learn:
                    self._learn(header, content[at : at + size])
            except BROKEN as error:
                self.losses.add(f"a record in a chunk is damaged: {error}")
        if end < len(content):
            self.losses.add(f"{len(content) - end} bytes of a chunk are no whole records")
        return found

    def _learn(self, header: Header, data: bytes) -> None:
        """Take a connection record."""
        key = _number(header[b"conn"])
        inner = _fields(data)
        kind = inner[b"type"].decode()
        text = inner.get(b"message_definition", b"").decode(errors="replace")
        name = kind.replace("/", "/msg/") if kind.count("/") == 1 else kind
        topic = header[b"topic"].decode()
        self.channels.setdefault(key, Channel(key, topic, name, text, "ros1", 0))

    def _record(self, at: int) -> _Record | None:
        """Return the record at an offset; None where the file ends inside its header."""
        width = int.from_bytes(self._read(at, 4), "little")
        head = self._read(at + 4, min(width, _LARGEST_HEADER) + 4)
        if width > _LARGEST_HEADER or len(head) < width + 4:
            return None
        try:
            header = _fields(head[:width])
        except BROKEN:
            return None
        return _Record(header, at + 8 + width, int.from_bytes(head[width:], "little"))


def _records(content: bytes) -> Iterator[tuple[Header, int, int]]:
    """Yield (header, offset of the data, its size) of the whole records in a chunk."""
    at, end = 0, len(content)
    while at + 8 <= end:
        width = int.from_bytes(content[at : at + 4], "little")
        data = at + 8 + width
        if data > end:
            return
        size = int.from_bytes(content[data - 4 : data], "little")
        if data + size > end:
            return
        try:
            yield _fields(content[at + 4 : data - 4]), data, size
        except BROKEN:
            return
        at = data + size


def _fields(content: bytes) -> Header:
    """Split a header into its fields. Raises ValueError."""
    fields: Header = {}
    at = 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "little")
        at += 4
        name, found, value = content[at : at + size].partition(b"=")
        if not found or at + size > len(content):
            raise ValueError("a header field is damaged")
        fields[name] = value
        at += size
    return fields


def _rows(content: bytes, rows: list[tuple[int, int, int]]) -> Sliced:
    starts, sizes, received = np.array(rows, np.int64).reshape(-1, 3).T
    return Sliced(received, None, Batch(np.frombuffer(content, np.uint8), starts, sizes))


def _number(value: bytes) -> int:
    return int(struct.unpack("<I", value)[0])


def _stamp(value: bytes) -> int:
    seconds, fraction = struct.unpack("<II", value)
    return int(seconds) * 1_000_000_000 + int(fraction)
