"""Opening logs: ROS 1 .bag, ROS 2 .db3 and .mcap, single files or rosbag2 directories."""

import sqlite3
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError
from offrl_contract.definitions import from_texts, require_type
from offrl_contract.errors import nearest
from offrl_contract.reader import Wire
from rosbags import rosbag1, rosbag2
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader
from rosbags.typesys.store import Typestore

from offrl_data.blocks import Blocks, db3_blocks, gather, indexed, mcap_blocks

STORAGE = (".bag", ".db3", ".mcap")
_UNREADABLE = (
    rosbag1.ReaderError,
    rosbag2.ReaderError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    AssertionError,
    struct.error,
    sqlite3.Error,
)

Reader = rosbag1.Reader | rosbag2.Reader


@dataclass(frozen=True)
class Topic:
    """One topic of a bag."""

    name: str
    type_name: str
    definition: str
    """Text embedded in the bag; empty where it carries none."""
    count: int
    connections: tuple[Connection, ...]


class Bag:
    """An open log. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open a bag. Raises InputError with the reason where it cannot be read."""
        self.path = path
        self.name = path.name
        self.notes: list[str] = []
        self._stack = ExitStack()
        self._readers = self._open()
        self.wire: Wire = "ros1" if isinstance(self._readers[0], rosbag1.Reader) else "cdr"
        self.topics = self._topics()

    @property
    def files(self) -> list[Path]:
        """The storage files of this bag."""
        if self.path.is_file():
            return [self.path]
        return sorted(file for file in self.path.iterdir() if file.suffix in STORAGE)

    def blocks(self, topics: list[Topic]) -> Blocks:
        """Yield the messages of topics in blocks, file by file, each in the order of its file."""
        wanted: dict[int, tuple[Any, list[Connection]]] = {}
        for topic in topics:
            for connection in topic.connections:
                owner = connection.owner
                wanted.setdefault(id(owner), (owner, []))[1].append(connection)
        try:
            for owner, connections in wanted.values():
                yield from _blocks_of(owner, connections)
        except _UNREADABLE as error:
            raise InputError(f"{self.path}: cannot be read to its end: {error}") from error

    def topic(self, name: str, type_name: str) -> Topic:
        """Return a topic, refusing one of another type. Raises InputError."""
        if name not in self.topics:
            raise InputError(f"{self.name}: no topic {name}.{nearest(name, self.topics)}")
        topic = self.topics[name]
        if topic.type_name != type_name:
            raise InputError(
                f"{self.name}: topic {name} has type {topic.type_name}, "
                f"the robot file says {type_name}"
            )
        return topic

    def definitions(self, topic: Topic, default: Typestore) -> Typestore:
        """Return the definitions of a topic: its own where embedded, else the default set."""
        if topic.definition:
            own = from_texts({topic.type_name: topic.definition}, f"{self.name}: {topic.name}")
            require_type(own, topic.type_name, f"{self.name}: {topic.name}")
            return own
        require_type(default, topic.type_name, f"{self.name}: {topic.name}")
        return default

    def digest(self) -> str:
        """Return the SHA-256 of the storage files."""
        content = sha256()
        for file in self.files:
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    content.update(block)
        return content.hexdigest()

    def __enter__(self) -> "Bag":
        """Return the open bag."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all files."""
        self._stack.close()

    def _open(self) -> list[Reader]:
        """Open the bag as it says it is; a directory whose metadata is off, file by file."""
        try:
            return [self._enter(self.path)]
        except _UNREADABLE as error:
            if not self.path.is_dir() or not self.files:
                raise InputError(f"{self.path}: cannot be opened: {error}") from error
            self.notes.append(f"metadata.yaml not usable ({error}): storage files read directly")
        try:
            return [self._enter(file) for file in self.files]
        except _UNREADABLE as error:
            self._stack.close()
            raise InputError(f"{self.path}: cannot be opened: {error}") from error

    def _enter(self, path: Path) -> Reader:
        reader: Reader = rosbag1.Reader(path) if path.suffix == ".bag" else rosbag2.Reader(path)
        with ExitStack() as opened:
            opened.enter_context(reader)
            self._stack.push(opened.pop_all())
        return reader

    def _topics(self) -> dict[str, Topic]:
        found: dict[str, list[Connection]] = {}
        for reader in self._readers:
            for connection in reader.connections:
                found.setdefault(connection.topic, []).append(connection)
        return {
            name: Topic(
                name=name,
                type_name=group[0].msgtype,
                definition=_definition(group[0]),
                count=sum(connection.msgcount for connection in group),
                connections=tuple(group),
            )
            for name, group in sorted(found.items())
        }


def _blocks_of(owner: Any, connections: list[Connection]) -> Blocks:
    """Read a file or a rosbag2 directory: its storage files at once where they allow it."""
    storages = getattr(owner, "storages", [owner])
    reads = [_fast_path(storage) for storage in storages]
    if None in reads or owner.metadata.compression_mode == "message":
        topics = {connection.id: connection.topic for connection in connections}
        messages = owner.messages(connections)
        yield from gather(((c.id, stamp, raw) for c, stamp, raw in messages), topics)
        return
    names = {connection.topic for connection in connections}
    for storage, read in zip(storages, reads, strict=True):
        wanted = [c for c in storage.connections if c.topic in names]
        if wanted:
            yield from read(storage, wanted)


def _fast_path(storage: Any) -> Any:
    """Return what reads a storage file in blocks, or None."""
    if isinstance(storage, Sqlite3Reader):
        return db3_blocks
    return mcap_blocks if isinstance(storage, McapReader) and indexed(storage) else None


def _definition(connection: Connection) -> str:
    known = connection.msgdef.format != MessageDefinitionFormat.NONE
    return connection.msgdef.data if known else ""


def find_bags(paths: list[Path]) -> list[Path]:
    """Return the bags below the given files and directories, in the order given.

    A directory with a metadata.yaml, or with storage files in it, is one bag; any other directory
    is searched. Raises InputError where a path has none.
    """
    bags: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or directory")
        found = [path] if path.is_file() else _bags_below(path)
        if not found:
            raise InputError(f"{path}: no bag below it ({', '.join(STORAGE)} or a rosbag2 folder)")
        bags += found
    return list(dict.fromkeys(bags))


def _bags_below(folder: Path) -> list[Path]:
    if (folder / "metadata.yaml").is_file():
        return [folder]
    entries = sorted(folder.iterdir())
    files = [entry for entry in entries if entry.suffix in STORAGE and entry.is_file()]
    ros1 = [file for file in files if file.suffix == ".bag"]
    own = [folder] if len(files) > len(ros1) else []
    return own + ros1 + [b for entry in entries if entry.is_dir() for b in _bags_below(entry)]


def longest_gap(stamps: NDArray[np.int64]) -> float:
    """Return the longest pause between messages [s]; 0 for fewer than two."""
    return float(np.diff(stamps).max()) / 1e9 if len(stamps) > 1 else 0.0
