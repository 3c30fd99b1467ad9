"""ROS 2 .db3 files: SQLite, its pages read as columns; by queries where that is not possible."""

from collections.abc import Collection
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import apsw
import numpy as np

from offrl_data.storage.base import (
    Batch,
    Blocks,
    Channel,
    Listed,
    Sliced,
    Storage,
    StorageError,
)
from offrl_data.storage.sqlite_pages import PagesError, SqlitePages

ROWS = 4096
"""Rows that are read at once."""
_COLUMNS = "SELECT name, type, pk FROM pragma_table_info('messages')"
_EXPECTED = [
    ("id", "INTEGER", 1),
    ("topic_id", "INTEGER", 0),
    ("timestamp", "INTEGER", 0),
    ("data", "BLOB", 0),
]
_START = 1 << 22  # of a file, where its tables of topics are [bytes]
_ROOT = "SELECT rootpage FROM sqlite_master WHERE name = 'messages'"
_FIRST = 16  # rows whose size tells how many more are read at once
_BYTES = 1 << 24  # that are read at once, about
_LARGEST_FILE = 1 << 42  # [bytes]
_MAPPED = 1 << 30  # of the file in memory, without a copy [bytes]


class Db3(Storage):
    """An open .db3 file."""

    def __init__(self, path: Path) -> None:
        """Open a file; one whose log cannot be merged is read without. Raises StorageError."""
        super().__init__(path)
        self._copies = ExitStack()
        self._merged = False
        """Whether the file is read together with its write-ahead log."""
        try:
            self._database = self._open()
            self.channels = self._channels()
        except (apsw.Error, ValueError, TypeError, OSError) as error:
            self._copies.close()
            raise StorageError(str(error)) from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()
        self._copies.close()

    def count(self) -> dict[int, int]:
        """Count the rows of each topic."""
        counts = dict.fromkeys(self.channels, 0)
        try:
            query = "SELECT topic_id, count(*) FROM messages GROUP BY topic_id"
            counts |= {key: count for key, count in self._query(query) if key in counts}
        except apsw.Error as error:
            self.losses.add(f"rows cannot be counted: {error}")
        return counts

    def blocks(self, wanted: Collection[int]) -> Blocks:
        """Yield the messages of the wanted topics, around what cannot be read."""
        try:
            if self._merged or self._query(_COLUMNS) != _EXPECTED:
                raise PagesError("with a log, or a table of other columns")
            pages = SqlitePages(self.path)
            leaves, lost = pages.leaves(self._query(_ROOT)[0][0])
        except (apsw.Error, ValueError, IndexError):
            yield from self._queried(wanted)
            return
        damaged = 0
        with closing(pages):
            if lost:
                self.losses.add(f"{lost} pages of the table are lost, with their messages")
            for rows in pages.rows(leaves):
                damaged += rows.damaged
                for topic in np.unique(rows.first).tolist():
                    if topic in wanted:
                        mine = np.flatnonzero(rows.first == topic)
                        batch = Batch(rows.buffer, rows.starts[mine], rows.sizes[mine])
                        yield topic, Sliced(rows.second[mine], None, batch)
        if damaged:
            self.losses.add(f"{damaged} rows or pages are damaged", damaged)

    def _queried(self, wanted: Collection[int]) -> Blocks:
        """Ask SQLite for the rows, up to the first that it cannot read."""
        marks = ", ".join("?" * len(wanted))
        query = f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks})"
        count, whole, rows = _FIRST, True, None
        while whole:
            some: list[Any] = []
            try:
                if rows is None:
                    rows = self._database.execute(f"{query} ORDER BY rowid", tuple(wanted))
                some.extend(islice(rows, count))
            except (apsw.Error, ValueError) as error:
                self.losses.add(f"rows cannot be read to their end: {error}")
                whole = False
            if not some:
                return
            yield from self._blocks(some)
            mean = sum(len(row[2]) for row in some[:_FIRST] if _sound(row)) // _FIRST + 1
            count = min(max(_BYTES // mean, 1), ROWS)

    def _blocks(self, rows: list[Any]) -> Blocks:
        """Lay rows out by topic."""
        topics, stamps, content = zip(*rows, strict=True)
        try:
            received = np.array(stamps, np.int64)
            if set(map(type, content)) != {bytes}:
                raise TypeError("data that is no blob")
        except (TypeError, ValueError, OverflowError):
            good = [row for row in rows if _sound(row)]
            self.losses.add("rows that are no messages", len(rows) - len(good))
            if good:
                yield from self._blocks(good)
            return
        ids = np.array(topics)
        for topic in set(topics):
            mine = np.flatnonzero(ids == topic)
            yield topic, Listed(received[mine], None, content, mine)

    def _open(self) -> apsw.Connection:
        """Open read-only; without a write-ahead log as a file that nobody changes."""
        log = self.path.with_name(f"{self.path.name}-wal")
        uri = f"file:{quote(str(self.path.absolute()))}?mode=ro"
        if log.exists() and log.stat().st_size:
            try:
                database = _connect(uri)
                database.execute("SELECT count(*) FROM topics").fetchall()
                self._merged = True
                return database
            except apsw.Error as error:
                lost = f"{log.name} ({log.stat().st_size} bytes) cannot be merged ({error})"
                self.losses.add(f"{lost}: the newest messages may be missing")
        missing = _missing_bytes(self.path)
        if missing:
            self.losses.add(f"the file is cut off, {missing} bytes of it are missing")
            uri = f"file:{quote(self._padded_start(missing))}?mode=ro"
        return _connect(f"{uri}&immutable=1")

    def _padded_start(self, missing: int) -> str:
        """Copy the start of a cut-off file, with its tables of topics, at its full length.

        SQLite opens no file that is shorter than its header says; rows are read from the pages.
        """
        folder = Path(self._copies.enter_context(TemporaryDirectory(prefix="offrl-")))
        copy = folder / self.path.name
        with self.path.open("rb") as file, copy.open("wb") as start:
            start.write(file.read(_START))
            start.truncate(self.path.stat().st_size + missing)
        return str(copy)

    def _channels(self) -> dict[int, Channel]:
        tables = {name for (name,) in self._query("SELECT name FROM sqlite_master")}
        if not {"topics", "messages"} <= tables:
            raise StorageError(f"no rosbag2 tables (topics, messages) in it: {sorted(tables)}")
        texts: dict[str, str] = {}
        if "message_definitions" in tables:
            found = "SELECT topic_type, encoded_message_definition FROM message_definitions"
            texts = {str(kind): str(text) for kind, text in self._query(found)}
        rows = self._query("SELECT id, name, type, serialization_format FROM topics ORDER BY id")
        return {
            int(key): Channel(int(key), str(topic), str(kind), texts.get(str(kind), ""), wire, -1)
            for key, topic, kind, wire in rows
        }

    def _query(self, text: str) -> list[Any]:
        return list(self._database.execute(text))


def _missing_bytes(path: Path) -> int:
    """Return how many bytes a file lacks of what its header says."""
    with path.open("rb") as file:
        head = file.read(32)
    size = int.from_bytes(head[16:18], "big")
    claimed = int.from_bytes(head[28:32], "big") * (1 << 16 if size == 1 else size)
    known = head[24:28] != bytes(4)  # else written by a SQLite that kept no count
    return max(0, min(claimed, _LARGEST_FILE) - path.stat().st_size) if known else 0


def _connect(uri: str) -> apsw.Connection:
    database = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    database.execute(f"PRAGMA mmap_size={_MAPPED}")
    return database


def _sound(row: tuple[Any, ...]) -> bool:
    stamp = isinstance(row[1], int) and -(1 << 63) <= row[1] < 1 << 63
    return stamp and isinstance(row[2], bytes)
