"""Logs: a storage file or a rosbag2 directory, opened as far as it can be read."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
import yaml
import zstandard
from offrl_contract import InputError
from offrl_contract.errors import nearest
from offrl_contract.yaml_text import from_yaml

from offrl_data.fingerprint import Fingerprint
from offrl_data.storage.base import (
    Block,
    Channel,
    Ints,
    Listed,
    Losses,
    Storage,
    StorageError,
    Wire,
)
from offrl_data.storage.compression import DamagedError, decompress_message
from offrl_data.storage.db3 import Db3
from offrl_data.storage.mcap import Mcap
from offrl_data.storage.ros1 import Ros1Bag

READERS: dict[str, type[Storage]] = {".bag": Ros1Bag, ".db3": Db3, ".mcap": Mcap}
CLOCK_TOPIC = "/clock"
"""Where a simulator says what time it is."""
_LAST_STAMP = 1 << 62  # [ns], in the year 2116
_COMPRESSED = ".zstd"
_METADATA = "metadata.yaml"
_PART = re.compile(r"(.+)_(\d+)")
_SEAM = 100_000_000  # messages are written in about their order [ns]


@dataclass(frozen=True)
class Topic:
    """One topic of a bag."""

    name: str
    type_name: str
    channels: tuple[Channel, ...]
    """One of each storage file, or more."""
    promised: int
    """Messages that metadata or the files themselves announce; -1 where nobody does."""

    @property
    def wire(self) -> Wire:
        """How its messages are encoded. Raises InputError for an encoding that is not ROS's."""
        wire = self.channels[0].wire
        if wire not in ("cdr", "ros1"):
            raise InputError(f"{self.name}: messages are encoded as '{wire}', not as cdr or ros1")
        return "ros1" if wire == "ros1" else "cdr"


@dataclass(frozen=True)
class _Metadata:
    """What a metadata.yaml says."""

    files: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    """Messages by topic."""
    by_message: bool = False
    """Whether each message is compressed on its own."""


class Bag(AbstractContextManager["Bag"]):
    """An open log. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open a bag. Raises InputError with the reason where nothing of it can be read."""
        self.path = path
        self.name = name_of(path)
        self._found = Losses([])
        self._notes: list[str] = []
        self._stack = ExitStack()
        self._metadata = _Metadata()
        self._joined = False
        """Whether only their names say that the files are one recording."""
        self.files = [path] if path.is_file() else self._files_of_directory()
        """The storage files of this bag."""
        self._fingerprint = Fingerprint(self.files)
        try:
            self._storages = self._open()
        except BaseException:
            self._stack.close()
            raise
        self.topics = self._topics()
        self._clock: Callable[[Ints], Ints] | None = None

    def follow(self, clock: Callable[[Ints], Ints]) -> None:
        """Time all messages by another clock: of receive stamps (n,) [ns] to its; 0 before it."""
        self._clock = clock

    @property
    def losses(self) -> Losses:
        """What could not be read, as far as it is known by now."""
        found = [self._found, *(storage.losses for storage in self._storages)]
        lines = [line for each in found for line in each.lines]
        return Losses(lines, sum(each.messages for each in found))

    @property
    def notes(self) -> list[str]:
        """What is odd and cost nothing."""
        return [*self._notes, *(note for each in self._storages for note in each.notes)]

    def blocks(self, names: Collection[str]) -> Iterator[tuple[Channel, Block]]:
        """Yield the messages of some topics, file by file, each in the order of its file."""
        read, early, odd = (dict.fromkeys(names, 0) for _ in range(3))
        newest = -_LAST_STAMP
        for storage in self._storages:
            before = newest
            wanted = {k: c for k, c in storage.channels.items() if c.topic in read}
            if not wanted:
                continue
            for key, found in storage.blocks(wanted):
                topic = wanted[key].topic
                block = _timed(found)
                read[topic] += len(found.received)
                odd[topic] += len(found.received) - len(block.received)
                if self._joined and len(block.received):
                    newest = max(newest, int(block.received.max()))
                    if int(block.received.min()) < before - _SEAM:
                        raise self._several("overlap in time")
                if self._clock:
                    block = replace(block, received=self._clock(block.received), published=None)
                    early[topic] += int(np.count_nonzero(block.received == 0))
                if not len(block.received):
                    continue
                yield wanted[key], _unpacked(block) if self._metadata.by_message else block
        for name, count in odd.items():
            if count:
                self._found.add(f"{name}: {count} messages with impossible stamps", count)
        for name, count in read.items():
            promised = self.topics[name].promised
            if count < promised:
                line = f"{name}: {promised} messages announced, {count} found"
                self._found.add(line, promised - count)
        notes = [f"{name}: {n} messages before the clock began" for name, n in early.items() if n]
        self._notes += [note for note in notes if note not in self._notes]

    def lose(self, line: str, messages: int) -> None:
        """Note messages that a later stage cannot read."""
        self._found.add(line, messages)

    def topic(self, name: str, type_name: str | None = None) -> Topic:
        """Return a topic, refusing one of another type than that given. Raises InputError."""
        if name not in self.topics:
            raise InputError(f"{self.name}: no topic {name}.{nearest(name, self.topics)}")
        topic = self.topics[name]
        if type_name not in (None, topic.type_name):
            raise InputError(
                f"{self.name}: topic {name} has type {topic.type_name}, "
                f"the robot file says {type_name}"
            )
        return topic

    def counts(self) -> dict[str, int]:
        """Count the messages of each topic; may have to read whole files."""
        counts = dict.fromkeys(self.topics, 0)
        for storage in self._storages:
            for key, count in storage.count().items():
                counts[storage.channels[key].topic] += count
        return counts

    def digest(self) -> str:
        """Return the XXH3 of the storage files (32 hex digits), as `xxh128sum` prints it."""
        return self._fingerprint.digest()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all files."""
        self._stack.close()

    def _files_of_directory(self) -> list[Path]:
        """Return the files that the metadata lists; where it is off, those that are there."""
        there = sorted(file for file in self.path.iterdir() if _is_storage(file))
        try:
            self._metadata = _read_metadata(self.path / _METADATA)
        except InputError as error:
            self._notes.append(str(error))
            return self._one_recording(there)
        listed = [self.path / name for name in self._metadata.files]
        missing = [file for file in listed if not file.is_file()]
        others = [file for file in there if file not in listed]
        found = ", ".join(file.name for file in others)
        if not missing:
            if others:
                self._notes.append(f"{_METADATA} does not name {found}, which is not read")
            return listed
        if others:
            names = ", ".join(file.name for file in missing)
            self._notes.append(f"{_METADATA} names {names}, which is not there; {found} is read")
        for file in missing[len(others) :]:
            self._found.add(f"{file.name} is missing")
        return [file for file in listed if file.is_file()] + self._one_recording(others)

    def _one_recording(self, files: list[Path]) -> list[Path]:
        """Return the files of a recording in their order. Raises InputError for those of more."""
        self._joined = len(files) > 1
        if self._joined and not _is_one_recording(files):
            raise self._several("are not parts of one recording (NAME_0, NAME_1, ...)")
        return sorted(files, key=_number)

    def _several(self, reason: str) -> InputError:
        return InputError(
            f"{self.path}: its storage files {reason}, and no {_METADATA} says that they belong "
            "together. Give the files themselves: each is a bag."
        )

    def _open(self) -> list[Storage]:
        opened: list[Storage] = []
        problems: list[str] = []
        for file in self.files:
            try:
                storage = self._stack.enter_context(self._reader(file))
                storage.saw = partial(self._fingerprint.saw, storage.path)
                opened.append(storage)
            except (StorageError, OSError) as error:
                problems.append(f"{file.name}: {error}")
        if not opened:
            reasons = "; ".join(problems) or "no storage file in it"
            raise InputError(f"{self.path}: cannot be opened: {reasons}")
        for problem in problems:
            self._found.add(f"cannot be opened: {problem}")
        return opened

    def _reader(self, file: Path) -> Storage:
        reader = READERS.get(_plain(file).suffix)
        if reader is None:
            raise StorageError(f"no bag file ({', '.join(READERS)})")
        if file.suffix != _COMPRESSED:
            return reader(file)
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="offrl-")))
        plain = folder / file.stem
        try:
            with file.open("rb") as packed, plain.open("wb") as out:
                stream = zstandard.ZstdDecompressor().stream_reader(packed)
                shutil.copyfileobj(stream, out, 1 << 20)
        except zstandard.ZstdError as error:
            self._found.add(f"{file.name}: decompressed in part: {error}")
        return reader(plain)

    def _topics(self) -> dict[str, Topic]:
        found: dict[str, list[Channel]] = {}
        for storage in self._storages:
            for channel in storage.channels.values():
                found.setdefault(channel.topic, []).append(channel)
        topics = {}
        for name, channels in sorted(found.items()):
            types = {channel.type_name for channel in channels}
            if len(types) > 1:
                self._notes.append(f"{name} has several types: {', '.join(sorted(types))}")
            counts = [channel.count for channel in channels]
            promised = -1 if min(counts) < 0 else sum(counts)
            promised = self._metadata.counts.get(name, promised)
            topics[name] = Topic(name, channels[0].type_name, tuple(channels), promised)
        return topics


def _timed(block: Block) -> Block:
    """Leave out messages with stamps that no clock shows."""
    sound = (block.received > -_LAST_STAMP) & (block.received < _LAST_STAMP)
    if block.published is not None:
        sound &= (block.published > -_LAST_STAMP) & (block.published < _LAST_STAMP)
    return block if sound.all() else block.only(np.flatnonzero(sound))


def _unpacked(block: Block) -> Block:
    """Decompress messages one by one; what cannot be is left as it is, and will not decode."""
    batch = block.pick(np.arange(len(block.received)))
    content = []
    for row in range(len(block.received)):
        try:
            content.append(decompress_message(batch.message(row)))
        except DamagedError:
            content.append(b"")
    return Listed(block.received, block.published, content, np.arange(len(content)))


def _read_metadata(path: Path) -> _Metadata:
    """Read a metadata.yaml. Raises InputError where it is absent or cannot be used."""
    if not path.is_file():
        raise InputError(f"no {_METADATA}: storage files read directly")
    try:
        content = from_yaml(path.read_text())
        information = content["rosbag2_bagfile_information"]
        topics = information["topics_with_message_count"]
        if not information["relative_file_paths"]:
            raise ValueError("it names no file")
        return _Metadata(
            files=tuple(Path(name).name for name in information["relative_file_paths"]),
            counts={
                str(topic["topic_metadata"]["name"]): int(topic["message_count"])
                for topic in topics
            },
            by_message=str(information.get("compression_mode", "")).lower() == "message",
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{_METADATA} not usable ({reason}): storage files read directly") from (
            error
        )


def _is_storage(path: Path) -> bool:
    return path.is_file() and _plain(path).suffix in READERS


def name_of(bag: Path) -> str:
    """Return the name of a bag as text, also where its bytes are none."""
    return os.fsencode(bag.name).decode(errors="replace")


def _plain(path: Path) -> Path:
    """Return a path without the suffix of its compression."""
    return path.with_suffix("") if path.suffix == _COMPRESSED else path


def _is_one_recording(files: list[Path]) -> bool:
    """Whether files are named as the parts NAME_0, NAME_1, ... of a split recording."""
    parts = [_PART.fullmatch(_plain(file).stem) for file in files]
    stems = {part and part[1] for part in parts}
    numbers = {part and part[2] for part in parts}
    return len(stems) == 1 and None not in stems and len(numbers) == len(files)


def _number(file: Path) -> int:
    part = _PART.fullmatch(_plain(file).stem)
    return int(part[2]) if part else 0


def files_of(bag: Path) -> list[Path]:
    """Return the files that a bag consists of."""
    if not bag.is_dir():
        return [bag]
    return [file for file in bag.iterdir() if file.name == _METADATA or _is_storage(file)]


def find_bags(paths: list[Path]) -> list[Path]:
    """Return the bags below the given files and directories, in the order given.

    A directory with a metadata.yaml, or with one recording in it (a storage file, or the parts
    NAME_0, NAME_1, ... of one), is a bag; of any other each storage file is one, and what is below
    it. Raises InputError where a path has none.
    """
    bags: list[Path] = []
    searched: set[Path] = set()
    for path in paths:
        if not os.path.exists(path):
            raise InputError(f"{path}: no such file or directory")
        again = path.resolve() in searched
        found = [path] if path.is_file() else _bags_below(path, searched)
        if not found and not again:
            kinds = ", ".join(READERS)
            raise InputError(f"{path}: no bag below it ({kinds} or a rosbag2 folder)")
        bags += found
    folders = {bag.resolve() for bag in bags if bag.is_dir()}
    alone = [bag for bag in bags if bag.is_dir() or bag.resolve().parent not in folders]
    return list({bag.resolve(): bag for bag in reversed(alone)}.values())[::-1]


def _bags_below(folder: Path, searched: set[Path]) -> list[Path]:
    """Return the bags in a folder, and below it where not yet searched."""
    try:
        if (folder / _METADATA).is_file():
            return [folder]
        if folder.resolve() in searched:
            return []
        searched.add(folder.resolve())
        # What a link names is best found under its own name.
        entries = sorted(folder.iterdir(), key=lambda entry: (entry.is_symlink(), entry))
        own = [entry for entry in entries if _is_storage(entry)]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error
    ros1 = any(_plain(file).suffix == ".bag" for file in own)
    if not ros1 and (len(own) == 1 or _is_one_recording(own)):
        own = [folder]
    below = (_bags_below(entry, searched) for entry in entries if entry.is_dir())
    return own + [bag for bags in below for bag in bags]
