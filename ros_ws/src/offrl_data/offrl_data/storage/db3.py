"""ROS 2 .db3 files: SQLite, its pages read as columns; by queries where that is not possible."""

from collections.abc import Collection
from contextlib import closing
from itertools import islice
from pathlib import Path
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
_ROOT = "SELECT rootpage FROM sqlite_master WHERE name = 'messages'"
_FIRST = 16  # rows whose size tells how many more are read at once
_BYTES = 1 << 24  # that are read at once, about
_MAPPED = 1 << 30  # of the file in memory, without a copy [bytes]


class Db3(Storage):
    """An open .db3 file."""

    def __init__(self, path: Path) -> None:
        """Open a file; one whose log cannot be merged is read without. Raises StorageError."""
        super().__init__(path)
        self._merged = False
        """Whether the file is read together with its write-ahead log."""
        try:
            self._database = self._open()
            self.channels = self._channels()
        except apsw.Error as error:
            raise StorageError(str(error)) from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

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
        if self._merged or self._query(_COLUMNS) != _EXPECTED:
            yield from self._queried(wanted)
            return
        try:
            pages = SqlitePages(self.path)
            leaves, lost = pages.leaves(self._query(_ROOT)[0][0])
        except (PagesError, apsw.Error) as error:
            self.notes.append(f"read by queries: {error}")
            yield from self._queried(wanted)
            return
        with closing(pages):
            if lost:
                self.losses.add(f"{lost} pages of the table are lost, with their messages")
            for rows in pages.rows(leaves):
                if rows.damaged:
                    self.losses.add(f"{rows.damaged} rows or pages are damaged", rows.damaged)
                for topic in np.unique(rows.first).tolist():
                    if topic in wanted:
                        mine = np.flatnonzero(rows.first == topic)
                        batch = Batch(rows.buffer, rows.starts[mine], rows.sizes[mine])
                        yield topic, Sliced(rows.second[mine], None, batch)

    def _queried(self, wanted: Collection[int]) -> Blocks:
        last = yield from self._rows(wanted, "ASC", None)
        if last is not None:
            yield from self._rows(wanted, "DESC", last)

    def _rows(self, wanted: Collection[int], order: str, after: int | None) -> Any:
        """Yield blocks in the order of row ids; return the last one read where that failed."""
        marks = ", ".join("?" * len(wanted))
        query = f"SELECT topic_id, timestamp, data, id FROM messages WHERE topic_id IN ({marks})"
        if after is not None:
            query += f" AND id > {after}"
        rows = self._database.execute(f"{query} ORDER BY id {order}", tuple(wanted))
        last, failed, count = after or 0, False, _FIRST
        while not failed:
            some: list[Any] = []
            try:
                some.extend(islice(rows, count))
            except apsw.Error as error:
                self.losses.add(f"rows cannot be read in {order.lower()}ending order: {error}")
                failed = True
            if not some:
                break
            last = some[-1][3]
            yield from self._blocks(some if after is None else some[::-1])
            mean = sum(len(row[2]) for row in some[:_FIRST] if _sound(row)) // _FIRST + 1
            count = min(max(_BYTES // mean, 1), ROWS)
        return last if failed else None

    def _blocks(self, rows: list[Any]) -> Blocks:
        """Lay rows out by topic."""
        topics, stamps, content, _ = zip(*rows, strict=True)
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
        return _connect(f"{uri}&immutable=1")

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


def _connect(uri: str) -> apsw.Connection:
    database = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    database.execute(f"PRAGMA mmap_size={_MAPPED}")
    return database


def _sound(row: tuple[Any, ...]) -> bool:
    stamp = isinstance(row[1], int) and -(1 << 63) <= row[1] < 1 << 63
    return stamp and isinstance(row[2], bytes)
