"""robomimic: one HDF5 file with a group per demonstration. Mandlekar et al. 2021, arXiv 2108.03298.

Observations are keyed by the robot's terms. robomimic asks for actions in [-1, 1], so `actions` is
scaled by the robot's limits and `actions_si` is what was logged. Beside its own keys: `path`,
`source` and `stamp` of each demonstration, and `offrl` (robot file, metadata) beside `env_args`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
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

_GYM = 2
"""robomimic's number for environments of the gym interface."""
_TOLERANCE = 1e-5
"""How far a float32 action may lie outside [-1, 1] by rounding."""


def write(dataset: Dataset, source: Path, out: Path) -> list[str]:
    """Write a robomimic file; return what it cannot hold. Raises InputError."""
    robot = dataset.robot
    with beside(out) as work, new_hdf5(work) as file, h5py.File(source) as ours:
        data = file.create_group("data")
        data.attrs["total"] = len(dataset)
        about = {"env_name": robot.robot, "env_type": _GYM, "env_kwargs": {}}
        data.attrs["env_args"] = json.dumps(about)
        data.attrs["offrl"] = envelope(dataset)
        for index in range(len(dataset.lengths)):
            demo = data.create_group(f"demo_{index}")
            _write_episode(demo, dataset.episode(index), robot)
            _write_images(demo, dataset, ours, index)
        without = [name for name in dataset.images if f"episodes/final_images/{name}" not in ours]
    return [f"next_obs/{name}: the dataset has no final images" for name in without]


def _write_episode(demo: Any, episode: Episode, robot: Robot) -> None:
    length = len(episode.rewards)
    demo.attrs.update(num_samples=length, source=episode.source, stamp=episode.stamp)
    demo["actions"] = _scaled(episode.actions, robot)
    demo["actions_si"] = episode.actions
    demo["rewards"] = episode.rewards
    demo["dones"] = ((np.arange(length) == length - 1) & episode.terminal).astype(np.int64)
    for name, part in robot.observation_slices.items():
        demo[f"obs/{name}"] = episode.observations[:-1, part]
        demo[f"next_obs/{name}"] = episode.observations[1:, part]
    if episode.path is not None:
        demo["path"] = episode.path


def _write_images(demo: Any, dataset: Dataset, ours: Any, index: int) -> None:
    start, length = int(dataset.starts[index]), int(dataset.lengths[index])
    for name, shape in dataset.images.items():
        pixels, final = ours[f"images/{name}"], ours.get(f"episodes/final_images/{name}")
        copy = demo.create_dataset(f"obs/{name}", (length, *shape), np.uint8)
        copy_images(pixels, start, start + length, copy)
        if final is not None:
            copy = demo.create_dataset(f"next_obs/{name}", (length, *shape), np.uint8)
            copy_images(pixels, start + 1, start + length, copy)
            copy[length - 1] = final[index]


def _scaled(actions: Floats, robot: Robot) -> Floats:
    """Return actions as a share of the limits, in [-1, 1]. Raises InputError outside them."""
    low, high = np.array(robot.limits).T
    share = 2.0 * (actions - low) / (high - low) - 1.0
    outside = np.argwhere(np.abs(share) > 1.0 + _TOLERANCE)
    if len(outside):
        row, entry = outside[0]
        raise InputError(
            f"actions: {actions[row, entry]:g} is outside the limits "
            f"[{low[entry]:g}, {high[entry]:g}]; robomimic takes actions within them only"
        )
    share32: Floats = np.clip(share, -1.0, 1.0).astype(np.float32)
    return share32


def read(path: Path, given: Robot | None) -> Foreign:
    """Open a robomimic file. Raises InputError."""
    with hdf5(path) as file:
        data = member(file, "data", str(path))
        numbered(data, "demo", f"{path}: data")
        robot, metadata = robot_of(data.attrs.get("offrl"), given, path)
    return Foreign(robot, metadata, _recordings(path, robot))


def _recordings(path: Path, robot: Robot) -> Iterator[Recording]:
    with hdf5(path) as file:
        for name in numbered(file["data"], "demo", f"{path}: data"):
            demo, where = file["data"][name], f"{path}: data/{name}"
            rewards = vector(column(demo, "rewards", where), f"{where}/rewards")
            observations = terms(member(demo, "obs", where), robot, f"{where}/obs")
            if "next_obs" in demo:
                following = terms(demo["next_obs"], robot, f"{where}/next_obs")
                if len(following) != len(observations):
                    counts = f"{len(following)} rows for {len(observations)} of obs"
                    raise InputError(f"{where}/next_obs: {counts}")
                observations = np.concatenate([observations, following[-1:]])
            source, stamp = origin_of(demo.attrs, f"{path.name}: {name}")
            yield Recording(
                where=where,
                observations=observations,
                actions=_actions(demo, robot, where),
                rewards=rewards,
                terminals=flags(column(demo, "dones", where), f"{where}/dones"),
                source=source,
                stamp=stamp,
                path=path_of(demo, "path", where, robot),
                frames=_frames(demo, robot, len(rewards), where),
            )


def _actions(demo: Any, robot: Robot, where: str) -> Floats:
    """Return what was logged, else what the share of the limits stands for."""
    if "actions_si" in demo:
        values = column(demo, "actions_si", where)
        return matrix(values, robot.action_size, f"{where}/actions_si", robot)
    share = matrix(column(demo, "actions", where), robot.action_size, f"{where}/actions", robot)
    low, high = np.array(robot.limits).T
    actions: Floats = (low + (share + 1.0) / 2.0 * (high - low)).astype(np.float32)
    return actions


def _frames(demo: Any, robot: Robot, length: int, where: str) -> dict[str, Frames]:
    """Return the images that are no term of the robot file's observation vector."""
    following = images(demo.get("next_obs"), length, f"{where}/next_obs")
    own = {term.name for term in robot.observation}
    return {
        name: Frames(rows, final=following[name][length - 1 :] if name in following else None)
        for name, rows in images(demo["obs"], length, f"{where}/obs").items()
        if name not in own
    }
