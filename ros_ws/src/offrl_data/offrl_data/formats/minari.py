"""Minari: a folder DATASET_ID/data with an HDF5 file of episodes and their spaces.

Observations have one row more than actions, so that nothing is lost. Beside Minari's own keys:
infos/path, infos/images/NAME (raw: Minari would compress images in a space as JPEG), `source` and
`stamp` as attributes of each episode, and `offrl` (robot file, metadata) in metadata.json.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot

from offrl_data.dataset import Dataset, Episode
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
    numbered,
    origin_of,
    path_of,
    robot_of,
    terms,
)
from offrl_data.formats.recording import Floats, Frames, Recording, flags, matrix, vector

_ROWS, _ABOUT = "main_data.hdf5", "metadata.json"
_SINCE = "0.5.0"
"""The Minari version that the layout is of: the oldest that reads datasets without environment."""


def write(dataset: Dataset, source: Path, out: Path) -> list[str]:
    """Write a Minari dataset; its folder's name is its id. Raises InputError."""
    if not re.fullmatch(r"[-\w]+-v\d+", out.name):
        stem = re.sub(r"[^-\w]", "_", out.name)
        raise InputError(f"--out {out}: Minari's ids end in a version, as in {stem}-v0")
    with beside(out, folder=True) as work:
        (work / "data").mkdir()
        with new_hdf5(work / "data" / _ROWS) as file, h5py.File(source) as ours:
            for index in range(len(dataset.lengths)):
                group = file.create_group(f"episode_{index}")
                group.attrs["id"] = index
                _write_episode(group, dataset.episode(index))
                _write_images(group, dataset, ours, index)
        size = (work / "data" / _ROWS).stat().st_size
        about = _about(dataset, out.name) | {"dataset_size": round(size / 1e6, 1)}
        (work / "data" / _ABOUT).write_text(json.dumps(about))
    return []


def _write_episode(group: Any, episode: Episode) -> None:
    length = len(episode.rewards)
    ends = np.arange(length) == length - 1
    group.attrs.update(total_steps=length, source=episode.source, stamp=episode.stamp)
    group["observations"] = episode.observations
    group["actions"] = episode.actions
    group["rewards"] = episode.rewards
    group["terminations"] = ends & episode.terminal
    group["truncations"] = ends & (not episode.terminal)
    if episode.path is not None:
        group["infos/path"] = episode.path


def _write_images(group: Any, dataset: Dataset, ours: Any, index: int) -> None:
    start, length = int(dataset.starts[index]), int(dataset.lengths[index])
    for name, shape in dataset.images.items():
        final = ours.get(f"episodes/final_images/{name}")
        rows = length + (final is not None)
        copy = group.create_dataset(f"infos/images/{name}", (rows, *shape), np.uint8)
        copy_images(ours[f"images/{name}"], start, start + length, copy)
        if final is not None:
            copy[length] = final[index]


def _about(dataset: Dataset, dataset_id: str) -> dict[str, Any]:
    """Return what metadata.json says: sizes, spaces, where it comes from."""
    robot = dataset.robot
    clips = [term.clip or (-np.inf, np.inf) for term in robot.observation]
    widths = [robot.width(term) for term in robot.observation]
    return {
        "dataset_id": dataset_id,
        "total_episodes": len(dataset.lengths),
        "total_steps": len(dataset),
        "data_format": "hdf5",
        "observation_space": _box(np.repeat(np.array(clips), widths, axis=0)),
        "action_space": _box(np.array(robot.limits)),
        "minari_version": _SINCE,
        "description": f"Robot {robot.robot}, logged at {robot.rate:g} Hz, SI units.",
        "offrl": envelope(dataset),
    }


def _box(bounds: NDArray[np.float64]) -> str:
    """Return a gymnasium Box of bounds (n, 2) as Minari writes it."""
    low, high = bounds.astype(np.float32).T.tolist()
    box = {"type": "Box", "dtype": "float32", "shape": [len(low)], "low": low, "high": high}
    return json.dumps(box)


def read(path: Path, given: Robot | None) -> Foreign:
    """Open a Minari dataset: its folder, or the folder `data` in it. Raises InputError."""
    data = path / "data" if (path / "data").is_dir() else path
    try:
        about = json.loads((data / _ABOUT).read_text())
        kind = about.get("data_format", "hdf5")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a Minari dataset: {data.name}/{_ABOUT}: {error}") from error
    if kind != "hdf5":
        raise InputError(f"{path}: data_format '{kind}'. Allowed: hdf5.")
    robot, metadata = robot_of(about.get("offrl"), given, path)
    with hdf5(data / _ROWS):
        pass
    return Foreign(robot, metadata, _recordings(data / _ROWS, path, robot))


def _recordings(file_path: Path, path: Path, robot: Robot) -> Iterator[Recording]:
    with hdf5(file_path) as file:
        for name in numbered(file, "episode", f"{path}/data/{_ROWS}"):
            group, where = file[name], f"{path}: {name}"
            rewards = vector(column(group, "rewards", where), f"{where}/rewards")
            actions = column(group, "actions", where)
            source, stamp = origin_of(group.attrs, f"{path.name}: {name}")
            found = images(group.get("infos/images"), len(rewards), f"{where}/infos/images")
            yield Recording(
                where=where,
                observations=_observations(group, robot, where),
                actions=matrix(actions, robot.action_size, f"{where}/actions", robot),
                rewards=rewards,
                terminals=flags(column(group, "terminations", where), f"{where}/terminations"),
                source=source,
                stamp=stamp,
                path=path_of(group, "infos/path", where, robot),
                frames={key: _frames(rows, len(rewards)) for key, rows in found.items()},
            )


def _observations(group: Any, robot: Robot, where: str) -> Floats:
    """Return one array, or the robot's terms by name where the space is a dictionary."""
    found = member(group, "observations", where)
    where = f"{where}/observations"
    if isinstance(found, h5py.Group):
        return terms(found, robot, where)
    return matrix(found[()], robot.observation_size, where, robot)


def _frames(rows: Any, length: int) -> Frames:
    return Frames(rows, final=rows[length : length + 1] if len(rows) > length else None)
