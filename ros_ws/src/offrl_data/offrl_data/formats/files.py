"""Files of other formats: the robot file inside them, reading with clear errors, safe writing."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from offrl_contract import InputError, Robot, __version__, robot_from_yaml
from offrl_contract.definitions import definition_hashes, definition_texts, distro_definitions
from offrl_contract.errors import nearest
from offrl_contract.robot_file import require_same
from offrl_contract.sampling import action_names, observation_names

from offrl_data.dataset import Dataset
from offrl_data.dataset_writer import Disk
from offrl_data.formats.recording import Floats, Recording, matrix

IMAGES_PER_COPY = 256


@dataclass(frozen=True)
class Foreign:
    """A dataset of another format, opened."""

    robot: Robot
    metadata: dict[str, Any]
    """As in our dataset file."""
    recordings: Iterator[Recording]
    left_out: tuple[str, ...] = ()
    """What the file has and our dataset cannot hold."""


def envelope(dataset: Dataset) -> str:
    """Return what a format keeps of us beside its own columns, as JSON."""
    content = {
        "robot": dataset.robot.to_yaml(),
        "robot_digest": dataset.robot.digest(),
        "offrl_version": __version__,
        "metadata": dict(dataset.metadata),
    }
    return json.dumps(content)


def robot_of(text: str | None, given: Robot | None, path: Path) -> tuple[Robot, dict[str, Any]]:
    """Return robot and metadata from the envelope inside a file, else by the robot file given.

    Raises InputError where there is neither, or where they differ.
    """
    if text is None:
        if given is None:
            raise InputError(
                f"{path}: no robot file inside. Give one with --robot FILE: it says what the "
                "entries of observation and action are, in which units, and at which rate."
            )
        return given, _metadata(given)
    try:
        content = json.loads(text)
        inside = robot_from_yaml(content["robot"], f"{path.name}: offrl/robot")
        metadata = dict(content["metadata"])
        metadata["imports"] = list(metadata.get("imports", []))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its entry 'offrl' is damaged: {error}") from error
    if given is not None:
        require_same(inside, given, f"{path.name}", "--robot")
    return inside, metadata


def _metadata(robot: Robot) -> dict[str, Any]:
    """Return what a conversion would have written beside the rows; types of the distribution."""
    store = distro_definitions()
    known = [name for name in sorted(set(robot.topics().values())) if name in store.fielddefs]
    return {
        "report": [],
        "definitions": definition_texts(store, known),
        "definition_hashes": definition_hashes(store, known),
        "observation_names": observation_names(robot),
        "action_names": action_names(robot),
    }


@contextmanager
def beside(out: Path, folder: bool = False) -> Iterator[Path]:
    """Yield a place to write at; it takes its final name when all of it is on disk.

    A file is replaced, a folder is not. Raises InputError.
    """
    if folder and out.exists():
        raise InputError(f"{out}: exists. Remove it, or choose another --out.")
    if out.is_dir():
        raise InputError(f"{out}: is a folder; this format is one file")
    work = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if folder:
            work.mkdir()
        yield work
        for path in (work, *work.rglob("*")):
            _sync(path)
        os.replace(work, out)
        _sync(out.parent)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error}") from error
    finally:
        with suppress(OSError):  # where nothing could be written
            shutil.rmtree(work) if work.is_dir() else work.unlink()


def _sync(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """Make an HDF5 file. Raises OSError where the disk is full."""
    disk = Disk(path, "w+")
    try:
        with h5py.File(disk, "w") as file:
            yield file
        disk.check()
    finally:
        disk.close()


@contextmanager
def hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file to read. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not an HDF5 file: {error}") from error
    with file:
        yield file


def member(group: Any, key: str, where: str) -> Any:
    """Return a dataset or group of HDF5. Raises InputError with the nearest name."""
    if not isinstance(group, h5py.Group):
        raise InputError(f"{where}: an array, expected a group that has '{key}'")
    if key not in group:
        raise InputError(f"{where}: no '{key}'.{nearest(key, group)}")
    return group[key]


def column(group: Any, key: str, where: str) -> Any:
    """Return the values of an HDF5 dataset. Raises InputError with the nearest name."""
    found = member(group, key, where)
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{where}/{key}: a group, expected an array")
    try:
        return found[()]
    except OSError as error:
        raise InputError(f"{where}/{key}: cannot be read: {error}") from error


def terms(group: Any, robot: Robot, where: str) -> Floats:
    """Return the observation vectors (n, o) of arrays named as the robot's terms.

    Raises InputError.
    """
    parts = []
    for term in robot.observation:
        values = column(group, term.name, where)
        parts.append(matrix(values, robot.width(term), f"{where}/{term.name}", robot))
    if len({len(part) for part in parts}) > 1:
        counts = ", ".join(str(len(part)) for part in parts)
        raise InputError(f"{where}: its arrays have different lengths: {counts}")
    return np.concatenate(parts, axis=1)


def path_of(group: Any, key: str, where: str, robot: Robot) -> Floats | None:
    """Return the positions (n, 2) that an export of ours holds, if any. Raises InputError."""
    if key not in group:
        return None
    return matrix(column(group, key, where), 2, f"{where}/{key}", robot)


def origin_of(known: Mapping[str, Any], otherwise: str) -> tuple[str, int]:
    """Return bag and stamp of an episode, where an export of ours has them; else another name."""
    source, stamp = known.get("source"), known.get("stamp")
    if not isinstance(source, str) or not isinstance(stamp, (int, np.integer)):
        return otherwise, 0
    whole = _is_text(source) and -(1 << 63) <= stamp < 1 << 63
    return (source, int(stamp)) if whole else (otherwise, 0)


def _is_text(name: str) -> bool:
    """Whether HDF5 can hold a name."""
    return "\0" not in name and name == name.encode(errors="replace").decode()


def numbered(group: Any, stem: str, where: str) -> list[str]:
    """Return the members STEM_0, STEM_1, ... in this order. Raises InputError for none."""
    if not isinstance(group, h5py.Group):
        raise InputError(f"{where}: an array, expected a group of {stem}_0, {stem}_1, ...")
    names = [name for name in group if re.fullmatch(rf"{stem}_\d+", name)]
    if not names:
        raise InputError(f"{where}: no episode ({stem}_0, {stem}_1, ...).{nearest(stem, group)}")
    return sorted(names, key=lambda name: int(name.rpartition("_")[2]))


def images(group: Any, rows: int, where: str) -> dict[str, Any]:
    """Return the arrays (rows or more, h, w, c) of bytes in a group, by name."""
    if not isinstance(group, h5py.Group):
        return {}
    found = {name: each for name, each in group.items() if isinstance(each, h5py.Dataset)}
    found = {name: each for name, each in found.items() if (each.ndim, each.dtype) == (4, "u1")}
    for name, each in found.items():
        if len(each) < rows:
            raise InputError(f"{where}/{name}: {len(each)} images for {rows} transitions")
    return found


def copy_images(source: Any, start: int, stop: int, target: Any) -> None:
    """Copy images [start, stop) to the begin of a target, a block at a time."""
    for begin in range(start, stop, IMAGES_PER_COPY):
        end = min(begin + IMAGES_PER_COPY, stop)
        target[begin - start : end - start] = source[begin:end]
