"""LeRobot v3: a folder of parquet files, one row per frame. Layout of lerobot 0.4 (codebase v3.0).

next.done is our terminal and next.truncated our timeout; next.observation.state is where the frame
led, which LeRobot itself does not keep. `path`, and `source` and `stamp` in the episode table, are
ours too; meta/offrl.json holds robot file and metadata. Camera images are refused: LeRobot keeps
them as lossy video.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot
from offrl_contract.errors import nearest
from offrl_contract.sampling import action_names, observation_names

from offrl_data.dataset import Dataset
from offrl_data.formats.files import Foreign, beside, envelope, origin_of, robot_of
from offrl_data.formats.recording import Recording, flags, matrix, vector

_VERSION = "v3.0"
_INFO, _OURS, _TASKS = "meta/info.json", "meta/offrl.json", "meta/tasks.parquet"
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_EPISODES = "meta/episodes/chunk-000/file-000.parquet"
_FILES_PER_CHUNK = 1000
_MEGABYTES_PER_FILE = 100
_STATE, _NEXT, _ACTION = "observation.state", "next.observation.state", "action"
_REWARD, _DONE, _TRUNCATED, _PATH = "next.reward", "next.done", "next.truncated", "path"
_QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)

Columns = dict[str, NDArray[Any]]
"""Values by feature, a row per frame."""


def write(dataset: Dataset, source: Path, out: Path) -> list[str]:
    """Write a LeRobot dataset. Raises InputError for what it cannot hold."""
    parquet = _pyarrow().parquet
    robot = dataset.robot
    if dataset.images:
        names = ", ".join(dataset.images)
        raise InputError(f"{source}: has images ({names}), which LeRobot keeps as lossy video only")
    if robot.rate != round(robot.rate):
        raise InputError(f"{source}: {robot.rate:g} Hz; LeRobot's fps is a whole number")
    columns = _columns(dataset)
    stops = np.cumsum(dataset.lengths)
    files = _files(columns, stops)
    with beside(out, folder=True) as work:
        (work / "meta/episodes/chunk-000").mkdir(parents=True)
        for number in range(files[-1] + 1):
            chunk, index = divmod(number, _FILES_PER_CHUNK)
            path = work / _DATA.format(chunk_index=chunk, file_index=index)
            path.parent.mkdir(parents=True, exist_ok=True)
            inside = np.flatnonzero(files == number)
            first, last = dataset.starts[inside[0]], stops[inside[-1]]
            part = {key: values[first:last] for key, values in columns.items()}
            parquet.write_table(_table(part), path)
        parquet.write_table(_episodes(dataset, columns, files), work / _EPISODES)
        parquet.write_table(_tasks(robot), work / _TASKS)
        _write_json(work / _INFO, _info(dataset, columns))
        _write_json(work / "meta/stats.json", {key: _stats(v) for key, v in columns.items()})
        (work / _OURS).write_text(envelope(dataset))
    return []


def _pyarrow() -> Any:
    try:
        import pyarrow as arrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise InputError(
            "LeRobot's files are parquet, which needs pyarrow: pip install 'offrl[formats]'"
        ) from error
    return arrow


def _columns(dataset: Dataset) -> Columns:
    """Return what every frame holds."""
    frame = np.arange(len(dataset)) - np.repeat(dataset.starts, dataset.lengths)
    columns: Columns = {
        _STATE: dataset.observations,
        _ACTION: dataset.actions,
        _NEXT: dataset.next_observations,
        _REWARD: dataset.rewards,
        _DONE: dataset.terminals,
        _TRUNCATED: dataset.timeouts,
    }
    if dataset.path is not None:
        columns[_PATH] = dataset.path
    return columns | {
        "timestamp": (frame / dataset.robot.rate).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.repeat(np.arange(len(dataset.lengths)), dataset.lengths),
        "index": np.arange(len(dataset)),
        "task_index": np.zeros(len(dataset), np.int64),
    }


def _files(columns: Columns, stops: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the data file (E,) of each episode: a new one where the last would grow too large."""
    per_row = sum(values.nbytes for values in columns.values()) / stops[-1]
    numbers: NDArray[np.int64] = ((stops - 1) * per_row // (_MEGABYTES_PER_FILE * 2**20)).astype(
        np.int64
    )
    return np.unique(numbers, return_inverse=True)[1]


def _table(columns: Columns) -> Any:
    """Return an arrow table; a vector of one entry is a plain number, as LeRobot has it."""
    arrow = _pyarrow()
    arrays = {}
    for key, values in columns.items():
        flat = arrow.array(values.reshape(-1))
        wide = values.ndim == 2 and values.shape[1] > 1
        arrays[key] = arrow.FixedSizeListArray.from_arrays(flat, values.shape[1]) if wide else flat
    return arrow.table(arrays)


def _episodes(dataset: Dataset, columns: Columns, files: NDArray[np.int64]) -> Any:
    """Return the table of episodes: where each lies, and the statistics of its columns."""
    count = len(dataset.lengths)
    stops = dataset.starts + dataset.lengths
    rows: dict[str, Any] = {
        "episode_index": np.arange(count),
        "tasks": [[dataset.robot.robot]] * count,
        "length": dataset.lengths,
        "data/chunk_index": files // _FILES_PER_CHUNK,
        "data/file_index": files % _FILES_PER_CHUNK,
        "dataset_from_index": dataset.starts,
        "dataset_to_index": stops,
        "meta/episodes/chunk_index": np.zeros(count, np.int64),
        "meta/episodes/file_index": np.zeros(count, np.int64),
        "source": list(dataset.sources),
        "stamp": dataset.stamps,
    }
    for key, values in columns.items():
        each = [_stats(values[a:b]) for a, b in zip(dataset.starts, stops, strict=True)]
        for name in each[0]:
            rows[f"stats/{key}/{name}"] = [stats[name] for stats in each]
    return _pyarrow().table(rows)


def _stats(values: NDArray[Any]) -> dict[str, list[Any]]:
    """Return what LeRobot normalises by, per entry of a feature."""
    wide = values.reshape(len(values), -1).astype(np.float64)
    found: dict[str, list[Any]] = {
        "min": wide.min(axis=0).tolist(),
        "max": wide.max(axis=0).tolist(),
        "mean": wide.mean(axis=0).tolist(),
        "std": wide.std(axis=0).tolist(),
        "count": [len(values)],
    }
    quantiles = np.quantile(wide, _QUANTILES, axis=0)
    names = [f"q{round(100 * share):02d}" for share in _QUANTILES]
    return found | dict(zip(names, quantiles.tolist(), strict=True))


def _tasks(robot: Robot) -> Any:
    """Return the table of tasks: one, named after the robot; its text is the index for pandas."""
    arrow = _pyarrow()
    about = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {
                "name": name,
                "field_name": name,
                "pandas_type": kind,
                "numpy_type": numpy_kind,
                "metadata": None,
            }
            for name, kind, numpy_kind in (
                ("task_index", "int64", "int64"),
                ("task", "unicode", "object"),
            )
        ],
        "pandas_version": "1.0.0",
    }
    table = arrow.table({"task_index": [0], "task": [robot.robot]})
    return table.replace_schema_metadata({"pandas": json.dumps(about)})


def _info(dataset: Dataset, columns: Columns) -> dict[str, Any]:
    robot = dataset.robot
    names = {
        _STATE: observation_names(robot),
        _NEXT: observation_names(robot),
        _ACTION: action_names(robot),
        _PATH: ["x", "y"],
    }
    features = {
        key: {
            "dtype": values.dtype.name,
            "shape": list(values.shape[1:]) or [1],
            "names": names.get(key),
        }
        for key, values in columns.items()
    }
    return {
        "codebase_version": _VERSION,
        "robot_type": robot.robot,
        "total_episodes": len(dataset.lengths),
        "total_frames": len(dataset),
        "total_tasks": 1,
        "chunks_size": _FILES_PER_CHUNK,
        "data_files_size_in_mb": _MEGABYTES_PER_FILE,
        "video_files_size_in_mb": 200,
        "fps": round(robot.rate),
        "splits": {"train": f"0:{len(dataset.lengths)}"},
        "data_path": _DATA,
        "video_path": None,
        "features": features,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4))


def read(path: Path, given: Robot | None) -> Foreign:
    """Open a LeRobot dataset. Raises InputError."""
    _pyarrow()
    try:
        info = json.loads((path / _INFO).read_text())
        version, fps = str(info["codebase_version"]), float(info["fps"])
        kinds = {key: str(each["dtype"]) for key, each in info["features"].items()}
        ours = (path / _OURS).read_text() if (path / _OURS).is_file() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a LeRobot dataset: {_INFO}: {error}") from error
    if not version.startswith("v3."):
        raise InputError(f"{path}: codebase_version '{version}'. Allowed: v3.0; lerobot converts.")
    robot, metadata = robot_of(ours, given, path)
    for key in (_STATE, _ACTION, _REWARD, _DONE):
        if key not in kinds:
            raise InputError(f"{path}: {_INFO}: no feature '{key}'.{nearest(key, kinds)}")
    if fps != robot.rate:
        raise InputError(f"{path}: {fps:g} fps, the robot file says {robot.rate:g} Hz")
    visual = tuple(f"{key} ({k})" for key, k in kinds.items() if k in ("image", "video"))
    return Foreign(robot, metadata, _recordings(path, robot), visual)


def _recordings(path: Path, robot: Robot) -> Iterator[Recording]:
    known = _known_episodes(path)
    for file in sorted((path / "data").glob("*/*.parquet")):
        columns = _read(file, (_STATE, _ACTION, _REWARD, _DONE, "episode_index"))
        columns |= _read(file, (_NEXT, _TRUNCATED, _PATH), optional=True)
        episodes = columns["episode_index"]
        if episodes.dtype.kind not in "iu":
            raise InputError(f"{file}: episode_index holds {episodes.dtype}, not integers")
        bounds = [0, *(np.flatnonzero(np.diff(episodes)) + 1).tolist(), len(episodes)]
        for start, stop in pairwise(bounds):
            part = {key: values[start:stop] for key, values in columns.items()}
            if len(part["episode_index"]):
                number = int(part["episode_index"][0])
                where = f"{path}: episode {number}"
                otherwise = f"{path.name}: episode {number}"
                source, stamp = origin_of(known.get(number, {}), otherwise)
                yield _recording(part, robot, where, source, stamp)


def _recording(part: Columns, robot: Robot, where: str, source: str, stamp: int) -> Recording:
    size = robot.observation_size
    observations = matrix(part[_STATE], size, f"{where}/{_STATE}", robot)
    if _NEXT in part:
        following = matrix(part[_NEXT], size, f"{where}/{_NEXT}", robot)
        observations = np.concatenate([observations, following[-1:]])
    terminals = flags(part[_DONE], f"{where}/{_DONE}")
    if _TRUNCATED in part:
        terminals &= ~flags(part[_TRUNCATED], f"{where}/{_TRUNCATED}")
    return Recording(
        where=where,
        observations=observations,
        actions=matrix(part[_ACTION], robot.action_size, f"{where}/{_ACTION}", robot),
        rewards=vector(part[_REWARD], f"{where}/{_REWARD}"),
        terminals=terminals,
        source=source,
        stamp=stamp,
        path=matrix(part[_PATH], 2, f"{where}/{_PATH}", robot) if _PATH in part else None,
    )


def _known_episodes(path: Path) -> dict[Any, dict[str, Any]]:
    """Return source and stamp by episode, where the table of episodes has them."""
    known: dict[Any, dict[str, Any]] = {}
    for file in sorted((path / "meta/episodes").glob("*/*.parquet")):
        columns = _read(file, ("episode_index", "source", "stamp"), optional=True)
        if len(columns) == 3:
            rows = (columns[key].tolist() for key in ("episode_index", "source", "stamp"))
            known |= {
                index: {"source": source, "stamp": stamp}
                for index, source, stamp in zip(*rows, strict=True)
            }
    return known


def _read(file: Path, keys: tuple[str, ...], optional: bool = False) -> Columns:
    """Read columns of a parquet file. Raises InputError."""
    arrow = _pyarrow()
    try:
        with arrow.parquet.ParquetFile(file) as opened:
            present = opened.schema_arrow.names
            table = opened.read(columns=[key for key in keys if key in present])
        columns = {key: _values(table[key]) for key in table.column_names}
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    for key in keys:
        if key not in columns and not optional:
            raise InputError(f"{file}: no '{key}'.{nearest(key, present)}")
    return columns


def _values(column: Any) -> NDArray[Any]:
    """Return a column as an array, a row per frame. Raises ValueError for lists of many lengths."""
    rows = len(column)
    while hasattr(column.type, "value_type"):
        column = column.combine_chunks().flatten()
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values if len(values) == rows else values.reshape(rows, -1)
