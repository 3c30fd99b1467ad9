"""Rows out of SQLite's pages equal what SQLite answers, and damaged pages cost their own rows."""

import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offrl_data.storage.sqlite_pages import PagesError, SqlitePages

Row = tuple[int, int, bytes]
TABLE = (
    "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB)"
)


def write(path: Path, rows: list[tuple[int, int, int]], page: int, gone: int = 0) -> None:
    """Write rows (topic, stamp, size of the data); delete every `gone`-th again."""
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA page_size={page}")
        database.execute(TABLE)
        database.execute("CREATE INDEX timestamp_idx ON messages (timestamp)")
        rng = np.random.default_rng(len(rows))
        data = [(topic, stamp, rng.bytes(size)) for topic, stamp, size in rows]
        database.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES(?,?,?)", data)
        if gone:
            database.execute(f"DELETE FROM messages WHERE id % {gone} = 0")
    database.close()


def asked(path: Path) -> tuple[list[Row], int]:
    """What SQLite answers, and the root page of the table."""
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY id")
        found = rows.fetchall()
        root = database.execute("SELECT rootpage FROM sqlite_master WHERE name='messages'")
        page = root.fetchone()[0]
    database.close()
    return found, page


def read(path: Path, root: int) -> tuple[list[Row], int]:
    """What the pages hold, and how many rows and pages are damaged."""
    pages = SqlitePages(path)
    leaves, damaged = pages.leaves(root)
    found: list[Row] = []
    for rows in pages.rows(leaves):
        damaged += rows.damaged
        for topic, stamp, start, size in zip(
            rows.first, rows.second, rows.starts, rows.sizes, strict=True
        ):
            found.append((int(topic), int(stamp), rows.buffer[start : start + size].tobytes()))
    pages.close()
    return found, damaged


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 300),
            st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300),
            st.integers(0, 700) | st.sampled_from([4057, 4061, 4062, 9000, 70000]),
        ),
        max_size=120,
    ),
    st.sampled_from([512, 1024, 4096, 65536]),
    st.sampled_from([0, 3]),
)
def test_rows_equal_those_of_sqlite(rows: list[tuple[int, int, int]], page: int, gone: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.db3"
        write(path, rows, page, gone)
        expected, root = asked(path)
        assert read(path, root) == (expected, 0)


def test_a_damaged_page_costs_its_own_rows(tmp_path: Path) -> None:
    path = tmp_path / "log.db3"
    write(path, [(1, k, 300) for k in range(2000)], 4096)
    expected, root = asked(path)
    pages = SqlitePages(path)
    leaves, _ = pages.leaves(root)
    pages.close()
    content = bytearray(path.read_bytes())
    at = (int(leaves[70]) - 1) * 4096
    content[at : at + 4096] = b"\xff" * 4096
    path.write_bytes(bytes(content))
    found, damaged = read(path, root)
    assert damaged == 1
    assert len(expected) - len(found) in range(10, 14)
    assert set(found) < set(expected)


def test_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.db3"
    path.write_bytes(b"not a database" * 50)
    with pytest.raises(PagesError, match="no SQLite header"):
        SqlitePages(path)
