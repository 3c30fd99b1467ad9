"""D4RL's flat HDF5: every array has one row per transition. Fu et al. 2020, arXiv 2004.07219.

Beside D4RL's own columns: next_observations, infos/path, infos/images/NAME, and as attributes of
the file `offrl` (robot file, metadata) and `offrl_episodes` (source and
stamp of each).
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot

from offrl_data.dataset import COLUMNS, Dataset
from offrl_data.formats.files import (
    Foreign,
    beside,
    column,
    copy_images,
    envelope,
    hdf5,
    images,
    member,
    new_hdf5,
    origin_of,
    robot_of,
)
from offrl_data.formats.recording import Frames, Recording, flags, matrix, vector


def write(dataset: Dataset, source: Path, out: Path) -> list[str]:
    """Write a D4RL file; return what it cannot hold. Raises InputError."""
    with beside(out) as work, new_hdf5(work) as file, h5py.File(source) as ours:
        for name in COLUMNS:
            file[name] = getattr(dataset, name)
        file["next_observations"] = dataset.next_observations
        if dataset.path is not None:
            file["infos/path"] = dataset.path
        for name in dataset.images:
            pixels = ours[f"images/{name}"]
            copy = file.create_dataset(f"infos/images/{name}", pixels.shape, np.uint8)
            copy_images(pixels, 0, len(pixels), copy)
        file.attrs["offrl"] = envelope(dataset)
        episodes = {"source": dataset.sources, "stamp": dataset.stamps.tolist()}
        file.attrs["offrl_episodes"] = json.dumps(episodes)
    return [f"the final images of {name}" for name in dataset.images]


def read(path: Path, given: Robot | None) -> Foreign:
    """Open a D4RL file. Raises InputError."""
    with hdf5(path) as file:
        robot, metadata = robot_of(file.attrs.get("offrl"), given, path)
        for name in COLUMNS[:-1]:
            member(file, name, str(path))
        if "timeouts" not in file:
            raise InputError(
                f"{path}: no 'timeouts', so where the log ends an episode is not known. "
                "Add a column `timeouts` (N,) of 0 and 1."
            )
    return Foreign(robot, metadata, _recordings(path, robot))


def _recordings(path: Path, robot: Robot) -> Iterator[Recording]:
    with hdf5(path) as file:
        columns = _columns(file, path, robot)
        following = columns.pop("next_observations")
        terminals = columns["terminals"]
        starts, stops = _bounds(terminals | columns.pop("timeouts"))
        origins = _origins(file, path)
        if len(origins) != len(starts):  # rows were added or left out
            origins = [{}] * len(starts)
        found = images(file.get("infos/images"), len(terminals), f"{path}: infos/images")
        for index, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            part: dict[str, Any] = {
                name: v if v is None else v[start:stop] for name, v in columns.items()
            }
            source, stamp = origin_of(origins[index], f"{path.name}: episode {index}")
            observations = part["observations"]
            if following is not None:
                observations = np.concatenate([observations, following[stop - 1 : stop]])
            yield Recording(
                where=f"{path}: rows {start} to {stop - 1}",
                observations=observations,
                actions=part["actions"],
                rewards=part["rewards"],
                terminals=part["terminals"],
                source=source,
                stamp=stamp,
                path=part["path"],
                frames={name: Frames(rows, start) for name, rows in found.items()},
            )


def _origins(file: h5py.File, path: Path) -> list[dict[str, Any]]:
    """Return source and stamp of each episode; none in a file of others. Raises InputError."""
    try:
        known = json.loads(file.attrs.get("offrl_episodes", '{"source": [], "stamp": []}'))
        pairs = zip(known["source"], known["stamp"], strict=True)
        return [{"source": source, "stamp": stamp} for source, stamp in pairs]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its entry 'offrl_episodes' is damaged: {error}") from error


def _columns(file: h5py.File, path: Path, robot: Robot) -> dict[str, Any]:
    """Return the arrays by name, checked; those that D4RL does not ask for may be None."""
    widths = {
        "observations": robot.observation_size,
        "next_observations": robot.observation_size,
        "actions": robot.action_size,
        "infos/path": 2,
    }
    found: dict[str, Any] = {
        "rewards": vector(column(file, "rewards", str(path)), f"{path}: rewards")
    }
    for name in ("terminals", "timeouts"):
        found[name] = flags(column(file, name, str(path)), f"{path}: {name}")
    for name, width in widths.items():
        short = name.removeprefix("infos/")
        found[short] = None
        if name in COLUMNS or name in file:
            values = column(file, name, str(path))
            found[short] = matrix(values, width, f"{path}: {name}", robot)
    rows = len(found["rewards"])
    for name, values in found.items():
        if values is not None and len(values) != rows:
            raise InputError(f"{path}: {name} has {len(values)} rows, rewards {rows}")
    return found


def _bounds(ends: NDArray[np.bool_]) -> tuple[list[int], list[int]]:
    """Return first and one past the last row of each episode; the file's end ends the last one."""
    stops = np.flatnonzero(ends) + 1
    spans = [(a, b) for a, b in pairwise([0, *stops.tolist(), len(ends)]) if b > a]
    return [start for start, _ in spans], [stop for _, stop in spans]
