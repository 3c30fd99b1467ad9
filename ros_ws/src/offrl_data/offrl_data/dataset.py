"""The dataset file: HDF5 that D4RL code reads as it is, with nothing lost at episode ends.

Layout: observations (N, o) f4, actions (N, a) f4, rewards (N,) f4, terminals (N,) bool,
timeouts (N,) bool; episodes/{start, length, source, final_observation}; the rest as attributes of
the group `metadata`. A terminal ends the task, a timeout only the log.
"""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot, __version__, robot_from_yaml

FORMAT = "offrl-dataset-1"
_FINAL = "episodes/final_observation"
_ROWS_PER_WRITE = 8192
_COLUMNS = ("observations", "actions", "rewards", "terminals", "timeouts")


@dataclass(frozen=True)
class Episode:
    """One episode of L transitions."""

    observations: NDArray[np.float32]
    """(L + 1, o): the last one is where the last transition led."""
    actions: NDArray[np.float32]
    """(L, a), SI units."""
    rewards: NDArray[np.float32]
    """(L,)"""
    terminal: bool
    """Whether the task ended here; otherwise the log did."""
    source: str
    """The bag it is from."""


@dataclass(frozen=True)
class Dataset:
    """A dataset in memory."""

    robot: Robot
    observations: NDArray[np.float32]
    """(N, o), SI units."""
    actions: NDArray[np.float32]
    """(N, a), SI units."""
    rewards: NDArray[np.float32]
    """(N,)"""
    terminals: NDArray[np.bool_]
    """(N,)"""
    timeouts: NDArray[np.bool_]
    """(N,)"""
    starts: NDArray[np.int64]
    """(E,) first transition of each episode."""
    lengths: NDArray[np.int64]
    """(E,) transitions of each episode."""
    sources: tuple[str, ...]
    """(E,) bag of each episode."""
    final_observations: NDArray[np.float32]
    """(E, o) where the last transition of each episode led."""
    metadata: Mapping[str, Any]
    """Conversion report, definitions, versions."""
    digest: str
    """Identity of the content (16 hex digits)."""

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def next_observations(self) -> NDArray[np.float32]:
        """Where each transition led (N, o)."""
        following = np.empty_like(self.observations)
        following[:-1] = self.observations[1:]
        following[self.starts + self.lengths - 1] = self.final_observations
        return following

    def episode(self, index: int) -> Episode:
        """Return one episode."""
        rows = slice(self.starts[index], self.starts[index] + self.lengths[index])
        last = self.final_observations[index : index + 1]
        return Episode(
            observations=np.concatenate([self.observations[rows], last]),
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            terminal=bool(self.terminals[rows][-1]),
            source=self.sources[index],
        )

    def returns(self) -> NDArray[np.float64]:
        """Return the undiscounted return of each episode (E,)."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.starts)

    def rows_of(self, episodes: Iterable[int]) -> NDArray[np.int64]:
        """Return the transitions of some episodes, in order."""
        spans = [np.arange(self.starts[e], self.starts[e] + self.lengths[e]) for e in episodes]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)


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
        self._written = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = h5py.File(self._beside, "w")
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error}") from error
        widths = {"observations": robot.observation_size, "actions": robot.action_size}
        for name in _COLUMNS:
            shape = (0, widths[name]) if name in widths else (0,)
            kind = np.bool_ if name in ("terminals", "timeouts") else np.float32
            self._file.create_dataset(
                name, shape, kind, maxshape=(None, *shape[1:]), chunks=(4096, *shape[1:])
            )
        size = robot.observation_size
        self._file.create_dataset(_FINAL, (0, size), np.float32, maxshape=(None, size))
        self._waiting: dict[str, list[NDArray[Any]]] = {name: [] for name in (*_COLUMNS, _FINAL)}

    def append(self, episode: Episode) -> None:
        """Add one episode."""
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
        for name, values in columns.items():
            self._waiting[name].append(values)
        self._starts.append(self.transitions)
        self._lengths.append(length)
        self._sources.append(episode.source)
        self.transitions += length
        if self.transitions - self._written >= _ROWS_PER_WRITE:
            self._flush()

    def _flush(self) -> None:
        """Write the episodes that wait."""
        for name, parts in self._waiting.items():
            column, values = self._file[name], np.concatenate(parts or [self._file[name][:0]])
            column.resize(len(column) + len(values), axis=0)
            column[len(column) - len(values) :] = values
            parts.clear()
        self._written = self.transitions

    def finish(self, metadata: Mapping[str, Any]) -> None:
        """Write the episode table and metadata, flush to disk, take the final name."""
        self._flush()
        episodes = self._file["episodes"]
        episodes["start"] = np.array(self._starts, np.int64)
        episodes["length"] = np.array(self._lengths, np.int64)
        episodes["source"] = np.array(self._sources, dtype=h5py.string_dtype())
        attributes = self._file.create_group("metadata").attrs
        attributes["format"] = FORMAT
        attributes["robot"] = self.robot.to_yaml()
        attributes["robot_digest"] = self.robot.digest()
        attributes["offrl_version"] = __version__
        for name, value in metadata.items():
            attributes[name] = json.dumps(value)
        self._file.close()
        with self._beside.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(self._beside, self.path)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what is unfinished."""
        if self._file:
            self._file.close()
        self._beside.unlink(missing_ok=True)


def load_dataset(path: Path) -> Dataset:
    """Load a dataset file whole. Raises InputError where it is not one, is empty or has NaN."""
    if not path.is_file():
        raise InputError(f"{path}: no such dataset")
    try:
        with h5py.File(path, "r") as file:
            dataset = _read(file, path)
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: not an offrl dataset: {error}") from error
    _check(dataset, path)
    return dataset


def _read(file: h5py.File, path: Path) -> Dataset:
    attributes = dict(file["metadata"].attrs)
    if attributes.get("format") != FORMAT:
        raise InputError(f"{path}: format '{attributes.get('format')}', expected '{FORMAT}'")
    columns = {name: file[name][()] for name in _COLUMNS}
    starts, lengths = file["episodes/start"][()], file["episodes/length"][()]
    final_observations = file["episodes/final_observation"][()]
    content = sha256()
    for values in (*columns.values(), starts, lengths, final_observations):
        content.update(np.ascontiguousarray(values).tobytes())
    known = ("format", "robot", "robot_digest", "offrl_version")
    return Dataset(
        robot=robot_from_yaml(attributes["robot"], f"{path.name}: metadata/robot"),
        **columns,
        starts=starts,
        lengths=lengths,
        sources=tuple(source.decode() for source in file["episodes/source"][()]),
        final_observations=final_observations,
        metadata={name: json.loads(v) for name, v in attributes.items() if name not in known},
        digest=content.hexdigest()[:16],
    )


def _check(dataset: Dataset, path: Path) -> None:
    """Refuse what training cannot use, naming the first place."""
    if not len(dataset):
        raise InputError(f"{path}: the dataset has no transitions")
    rows = len(dataset)
    for name in _COLUMNS:
        if len(getattr(dataset, name)) != rows:
            raise InputError(f"{path}: {name} has {len(getattr(dataset, name))} rows, not {rows}")
    robot = dataset.robot
    for name, width in (("observations", robot.observation_size), ("actions", robot.action_size)):
        if getattr(dataset, name).shape[1] != width:
            raise InputError(
                f"{path}: {name} is {getattr(dataset, name).shape[1]} wide, "
                f"its robot file says {width}"
            )
    for name in ("observations", "actions", "rewards", "final_observations"):
        bad = np.argwhere(~np.isfinite(getattr(dataset, name)))
        if len(bad):
            row = ", ".join(map(str, bad[0]))
            raise InputError(f"{path}: {name}[{row}] is not finite ({len(bad)} such values)")
    begins = np.concatenate([[0], np.cumsum(dataset.lengths)])
    if begins[-1] != rows or not np.array_equal(begins[:-1], dataset.starts):
        raise InputError(f"{path}: episodes/start and length do not partition its {rows} rows")
