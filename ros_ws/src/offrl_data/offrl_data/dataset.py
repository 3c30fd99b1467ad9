"""The dataset file: HDF5 that D4RL code reads as it is, with nothing lost at episode ends.

Layout: observations (N, o) f4, actions (N, a) f4, rewards (N,) f4, terminals (N,) bool,
timeouts (N,) bool; episodes/{start, length, source, stamp, final_observation}; where the robot has
them path (N, 2) f4 and images/NAME (N, h, w, c) u1 with episodes/final_images/NAME; the rest as
attributes of the group `metadata`. A terminal ends the task, a timeout only the log.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot, robot_from_yaml

from offrl_data.columns import Column, content_digest, first_not_finite

FORMAT = "offrl-dataset-1"
_KINDS = {"f": "float32", "b": "bool", "i": "int64", "OS": "text"}
COLUMNS = ("observations", "actions", "rewards", "terminals", "timeouts")


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
    stamp: int = 0
    """When it began, on the receive clock [ns]; 0 where unknown."""
    path: NDArray[np.float32] | None = None
    """(L, 2) where the robot was by its odometry [m], to look at; the policy does not see it."""


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
    stamps: NDArray[np.int64]
    """(E,) when each episode began, on the receive clock [ns]; 0 where unknown."""
    final_observations: NDArray[np.float32]
    """(E, o) where the last transition of each episode led."""
    path: NDArray[np.float32] | None
    """(N, 2) where the robot was by its odometry [m]; None without odometry."""
    images: Mapping[str, tuple[int, ...]]
    """Shape (h, w, c) of each image term; the pixels stay in the file, under images/NAME."""
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
            stamp=int(self.stamps[index]),
            path=None if self.path is None else self.path[rows],
        )

    def returns(self) -> NDArray[np.float64]:
        """Return the undiscounted return of each episode (E,)."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.starts)

    def rows_of(self, episodes: Iterable[int]) -> NDArray[np.int64]:
        """Return the transitions of some episodes, in order."""
        spans = [np.arange(self.starts[e], self.starts[e] + self.lengths[e]) for e in episodes]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)


@dataclass(frozen=True)
class DatasetFile:
    """An open dataset file. Columns are read where they are sliced; the episode table is loaded."""

    robot: Robot
    observations: Column
    """(N, o), SI units."""
    actions: Column
    """(N, a), SI units."""
    rewards: Column
    """(N,)"""
    terminals: Column
    """(N,)"""
    timeouts: Column
    """(N,)"""
    starts: NDArray[np.int64]
    """(E,) first transition of each episode."""
    lengths: NDArray[np.int64]
    """(E,) transitions of each episode."""
    final_observations: Column
    """(E, o) where the last transition of each episode led."""
    metadata: Mapping[str, Any]
    """Conversion report, definitions, versions."""
    digest: str
    """Identity of the content, the same as that of the dataset when loaded."""

    def __len__(self) -> int:
        return len(self.rewards)


AnyDataset = Dataset | DatasetFile


def load_dataset(path: Path) -> Dataset:
    """Load a dataset file whole. Raises InputError where it is not one, is empty or has NaN."""
    with _reading(path), h5py.File(path, "r") as file:
        dataset = _read(file, path)
    _check(dataset, path)
    return dataset


def open_dataset(path: Path) -> DatasetFile:
    """Open a dataset file, checked as when loaded, in a few megabytes of memory.

    Reads it all, twice. Raises InputError where it is not one, is empty or has NaN.
    """
    with _reading(path):
        # Without a cache of chunks, HDF5 reads the rows that are asked for and no others.
        file = h5py.File(path, "r", rdcc_nbytes=0)
        attributes, robot = _described(file, path)
        _check_layout(file, path, robot)
        columns = {name: file[name] for name in COLUMNS}
        starts, lengths = file["episodes/start"][()], file["episodes/length"][()]
        final_observations = file["episodes/final_observation"]
        dataset = DatasetFile(
            robot=robot,
            **columns,
            starts=starts,
            lengths=lengths,
            final_observations=final_observations,
            metadata=_metadata(attributes, path),
            digest=content_digest((*columns.values(), starts, lengths, final_observations)),
        )
        _check(dataset, path)
    return dataset


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file that is no dataset into an InputError."""
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder; a dataset is one file")
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such dataset")
    try:
        yield
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: not an offrl dataset: {error}") from error


def _described(file: h5py.File, path: Path) -> tuple[dict[str, Any], Robot]:
    """Return metadata and robot of a dataset file. Raises InputError for another format."""
    attributes = dict(file["metadata"].attrs)
    if attributes.get("format") != FORMAT:
        raise InputError(f"{path}: format '{attributes.get('format')}', expected '{FORMAT}'")
    return attributes, robot_from_yaml(str(attributes["robot"]), f"{path.name}: metadata/robot")


def _metadata(attributes: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Return what else the attributes hold. Raises InputError where they are no JSON."""
    found = {}
    for name, value in attributes.items():
        if name not in ("format", "robot", "robot_digest", "offrl_version"):
            try:
                found[name] = json.loads(value)
            except (ValueError, TypeError) as error:
                raise InputError(f"{path}: metadata/{name} is not JSON: {error}") from error
    return found


def _check_layout(file: h5py.File, path: Path, robot: Robot) -> None:
    """Refuse columns of another shape or kind than a dataset's. Raises InputError."""
    rows, episodes = _length(file["rewards"]), _length(file["episodes/start"])
    layout: dict[str, tuple[tuple[int, ...], str]] = {
        "rewards": ((rows,), "f"),
        "observations": ((rows, robot.observation_size), "f"),
        "actions": ((rows, robot.action_size), "f"),
        "terminals": ((rows,), "b"),
        "timeouts": ((rows,), "b"),
        "episodes/start": ((episodes,), "i"),
        "episodes/length": ((episodes,), "i"),
        "episodes/source": ((episodes,), "OS"),
        "episodes/stamp": ((episodes,), "i"),
        "episodes/final_observation": ((episodes, robot.observation_size), "f"),
    }
    if "path" in file:
        layout["path"] = ((rows, 2), "f")
    for name, (shape, kinds) in layout.items():
        column = file[name]
        if not isinstance(column, h5py.Dataset):
            raise InputError(f"{path}: {name} is a group, not a column")
        if column.shape != shape:
            raise InputError(f"{path}: {name} has the shape {column.shape}, not {shape}")
        if column.dtype.kind not in kinds:
            raise InputError(f"{path}: {name} holds {column.dtype}, not {_KINDS[kinds]}")


def _length(column: h5py.Dataset | h5py.Group) -> int:
    shape = getattr(column, "shape", ())
    return int(shape[0]) if shape else 0


def _read(file: h5py.File, path: Path) -> Dataset:
    attributes, robot = _described(file, path)
    _check_layout(file, path, robot)
    columns = {name: file[name][()] for name in COLUMNS}
    starts, lengths = file["episodes/start"][()], file["episodes/length"][()]
    final_observations = file["episodes/final_observation"][()]
    images = file.get("images", {})
    return Dataset(
        robot=robot,
        **columns,
        starts=starts,
        lengths=lengths,
        sources=tuple(source.decode() for source in file["episodes/source"][()]),
        stamps=file["episodes/stamp"][()],
        final_observations=final_observations,
        path=file["path"][()] if "path" in file else None,
        images={name: images[name].shape[1:] for name in images},
        metadata=_metadata(attributes, path),
        digest=content_digest((*columns.values(), starts, lengths, final_observations)),
    )


def _check(dataset: AnyDataset, path: Path) -> None:
    """Refuse what training cannot use, naming the first place. Raises InputError."""
    rows = len(dataset.rewards)
    if not rows:
        raise InputError(f"{path}: the dataset has no transitions")
    for name in ("observations", "actions", "rewards", "final_observations"):
        place, count = first_not_finite(getattr(dataset, name))
        if count:
            raise InputError(f"{path}: {name}[{place}] is not finite ({count} such values)")
    if (dataset.lengths < 1).any():
        raise InputError(f"{path}: episodes/length has {dataset.lengths.min()}, below 1")
    begins = np.concatenate([[0], np.cumsum(dataset.lengths)])
    if begins[-1] != rows or not np.array_equal(begins[:-1], dataset.starts):
        raise InputError(f"{path}: episodes/start and length do not partition its {rows} rows")
