"""Writing the dataset file: episode by episode, beside its final name until it is whole."""

import io
import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot, __version__

from offrl_data.dataset import FORMAT, Episode

_FINAL = "episodes/final_observation"
_ROWS_PER_WRITE = 8192
_ROWS_PER_CHUNK = 4096
_IMAGES_PER_CHUNK = 16
_BYTES_PER_COPY = 1 << 24


class Disk(io.FileIO):
    """A file whose first failed write is kept for later: HDF5 crashes where the disk is full."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it, or keep the error."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view):
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.error = self.error or error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Change the length of the file, or keep the error."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def readinto(self, buffer: Any) -> int:
        """Read; zeros stand for what could not be written."""
        view = memoryview(buffer).cast("B")
        done = super().readinto(view) or 0
        view[done:] = bytes(len(view) - done)
        return len(view)

    def check(self) -> None:
        """Raise the OSError of the first write that failed."""
        if self.error is not None:
            raise self.error


class DatasetWriter(AbstractContextManager["DatasetWriter"]):
    """Writes episode by episode beside the final name, which appears only when all is well."""

    def __init__(self, path: Path, robot: Robot) -> None:
        self.path = path
        self.robot = robot
        self.transitions = 0
        self._beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._starts: list[int] = []
        self._lengths: list[int] = []
        self._sources: list[str] = []
        self._stamps: list[int] = []
        self._written = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._disk = Disk(self._beside, "w+")
            self._file = h5py.File(self._disk, "w")
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error}") from error
        self._waiting: dict[str, list[NDArray[Any]]] = {}
        for name, width in (
            ("observations", robot.observation_size),
            ("actions", robot.action_size),
            (_FINAL, robot.observation_size),
        ):
            self._column(name, (width,), np.float32)
        self._column("rewards", (), np.float32)
        self._column("terminals", (), np.bool_)
        self._column("timeouts", (), np.bool_)

    def append(self, episode: Episode) -> None:
        """Add one episode. Raises OSError where it cannot be written."""
        length = len(episode.rewards)
        ends = np.zeros(length, np.bool_)
        ends[-1] = True
        columns = {
            "observations": episode.observations[:-1],
            "actions": episode.actions,
            "rewards": episode.rewards,
            "terminals": ends & episode.terminal,
            "timeouts": ends & (not episode.terminal),
            _FINAL: episode.observations[-1:],
        }
        if episode.path is not None:
            columns["path"] = episode.path
            if not self.transitions:
                self._column("path", (2,), np.float32)
        for name, values in columns.items():
            self._waiting[name].append(values)
        self._starts.append(self.transitions)
        self._lengths.append(length)
        self._sources.append(episode.source)
        self._stamps.append(episode.stamp)
        self.transitions += length
        if self.transitions - self._written >= _ROWS_PER_WRITE:
            self._flush()

    def append_images(self, column: str, pixels: NDArray[np.uint8]) -> None:
        """Add rows (n, h, w, c) to images/NAME or episodes/final_images/NAME.

        Raises InputError for another shape than before.
        """
        shape = pixels.shape[1:]
        if column not in self._file:
            self._images(column, shape)
        stored = self._file[column]
        if stored.shape[1:] != shape:
            raise InputError(f"{column}: an image of shape {shape} after {stored.shape[1:]}")
        _extend(stored, pixels)
        self._disk.check()

    def append_file(self, file: h5py.File) -> None:
        """Add the episodes of another dataset file of this robot, in pieces."""
        rows = len(file["rewards"])
        if not rows:
            return
        if "path" in file and "path" not in self._file:
            self._column("path", (2,), np.float32)
        episodes = file["episodes"]
        self._flush()
        for name in self._waiting:
            self._copy(file[name], self._file[name])
        for group in ("images", "episodes/final_images"):
            for name in file.get(group, ()):
                column = f"{group}/{name}"
                if column not in self._file:
                    self._images(column, file[column].shape[1:])
                self._copy(file[column], self._file[column])
        self._starts += (episodes["start"][()] + self.transitions).tolist()
        self._lengths += episodes["length"][()].tolist()
        self._sources += [source.decode() for source in episodes["source"][()]]
        self._stamps += episodes["stamp"][()].tolist()
        self.transitions += rows
        self._written = self.transitions
        self._disk.check()

    def finish(self, metadata: Mapping[str, Any]) -> None:
        """Write the episode table and metadata, flush to disk, take the final name."""
        self._flush()
        episodes = self._file["episodes"]
        episodes["start"] = np.array(self._starts, np.int64)
        episodes["length"] = np.array(self._lengths, np.int64)
        episodes["source"] = np.array(self._sources, dtype=h5py.string_dtype())
        episodes["stamp"] = np.array(self._stamps, np.int64)
        attributes = self._file.create_group("metadata").attrs
        attributes["format"] = FORMAT
        attributes["robot"] = self.robot.to_yaml()
        attributes["robot_digest"] = self.robot.digest()
        attributes["offrl_version"] = __version__
        _set(attributes, metadata)
        self._file.close()
        self._disk.check()
        os.fsync(self._disk.fileno())
        self._disk.close()
        os.replace(self._beside, self.path)

    def _column(self, name: str, shape: tuple[int, ...], kind: Any) -> None:
        """Make a column that grows by rows of `shape`."""
        chunks = (_ROWS_PER_CHUNK, *shape)
        self._file.create_dataset(name, (0, *shape), kind, maxshape=(None, *shape), chunks=chunks)
        self._waiting[name] = []

    def _images(self, name: str, shape: tuple[int, ...]) -> None:
        """Make a column of images, compressed."""
        self._file.create_dataset(
            name,
            (0, *shape),
            np.uint8,
            maxshape=(None, *shape),
            chunks=(_IMAGES_PER_CHUNK, *shape),
            compression="gzip",
            compression_opts=1,
        )

    def _copy(self, source: h5py.Dataset, target: h5py.Dataset) -> None:
        size = source.dtype.itemsize * int(np.prod(source.shape[1:]))
        step = max(1, _BYTES_PER_COPY // size)
        for at in range(0, len(source), step):
            _extend(target, source[at : at + step])

    def _flush(self) -> None:
        """Write the episodes that wait."""
        for name, parts in self._waiting.items():
            _extend(self._file[name], np.concatenate(parts or [self._file[name][:0]]))
            parts.clear()
        self._written = self.transitions
        self._disk.check()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what is unfinished."""
        if self._file:
            self._file.close()
        self._disk.close()
        self._beside.unlink(missing_ok=True)


def describe(path: Path, metadata: Mapping[str, Any]) -> None:
    """Replace metadata of a finished file. Raises OSError where it cannot be written."""
    disk = Disk(path, "r+")
    try:
        with h5py.File(disk, "r+") as file:
            _set(file["metadata"].attrs, metadata)
        disk.check()
        os.fsync(disk.fileno())
    finally:
        disk.close()


def _set(attributes: h5py.AttributeManager, metadata: Mapping[str, Any]) -> None:
    for name, value in metadata.items():
        attributes[name] = json.dumps(value)


def _extend(column: h5py.Dataset, rows: NDArray[Any]) -> None:
    """Add rows to the end of a column."""
    column.resize(len(column) + len(rows), axis=0)
    column[len(column) - len(rows) :] = rows
