"""Episodes as foreign files hold them, checked against the robot file and cut into ours."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot

from offrl_data.dataset import Episode

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Frames:
    """The images of one name over one recording."""

    rows: Any
    """Array or HDF5 dataset whose first L entries are the images (h, w, c) of the transitions."""
    start: int = 0
    """Entry of `rows` that belongs to the first transition."""
    final: NDArray[np.uint8] | None = None
    """(1, h, w, c): the image that the last action led to; None where the format has none."""


@dataclass(frozen=True)
class Recording:
    """L transitions of one episode, as a foreign file holds them."""

    where: str
    """File and key, for errors."""
    observations: Floats
    """(L + 1, o), or (L, o) where the format does not hold where the last action led."""
    actions: Floats
    """(L, a), SI units."""
    rewards: Floats
    """(L,)"""
    terminals: NDArray[np.bool_]
    """(L,) whether the task ended with this transition."""
    source: str
    """The bag it is from; the file and key where that is not known."""
    stamp: int = 0
    """When it began, on the receive clock [ns]; 0 where unknown."""
    path: Floats | None = None
    """(L, 2) where the robot was [m]."""
    frames: Mapping[str, Frames] = field(default_factory=dict)
    """Images by name."""


@dataclass(frozen=True)
class Piece:
    """One episode of ours, out of a recording."""

    episode: Episode
    begin: int
    """First transition, counted in the recording."""
    end: int
    """One past the last transition."""
    length: int
    """Transitions of the recording."""
    final_known: bool
    """False where the last observation stands for one that the file does not hold."""


def cut(recording: Recording) -> Iterator[Piece]:
    """Yield the episodes of a recording: one, or one up to each terminal, as the converter cuts.

    Without a final observation, the last transition is dropped, unless it is a terminal. A terminal
    is worth keeping, and no value is bootstrapped from what follows it: the last observation is
    repeated there and `final_known` is False.
    """
    length = len(recording.rewards)
    has_final = len(recording.observations) > length
    ends = np.flatnonzero(recording.terminals) + 1
    for begin, stop in pairwise([0, *ends.tolist(), length]):
        known = has_final or stop < length
        terminal = stop > begin and bool(recording.terminals[stop - 1])
        end = stop if known or terminal else stop - 1
        if end <= begin:
            continue
        observations = recording.observations[begin : end + 1]
        if not known and terminal:
            observations = np.concatenate([observations, observations[-1:]])
        path = None if recording.path is None else recording.path[begin:end]
        episode = Episode(
            observations=observations,
            actions=recording.actions[begin:end],
            rewards=recording.rewards[begin:end],
            terminal=terminal,
            source=recording.source,
            stamp=recording.stamp if begin == 0 else 0,
            path=path,
        )
        yield Piece(episode, begin, end, length, known or not terminal)


def require_lengths(recording: Recording) -> None:
    """Raise InputError where the columns of a recording have different lengths."""
    length = len(recording.rewards)
    if len(recording.observations) not in (length, length + 1):
        raise InputError(
            f"{recording.where}: {len(recording.observations)} observations for {length} rewards; "
            "they must be as many, or one more"
        )
    for name in ("actions", "terminals", "path"):
        values = getattr(recording, name)
        if values is not None and len(values) != length:
            raise InputError(f"{recording.where}: {len(values)} {name} for {length} rewards")


def matrix(values: Any, width: int, where: str, robot: Robot) -> Floats:
    """Return finite numbers (n, width). Raises InputError."""
    array = _numbers(values, where)
    if array.ndim == 1 and width == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != width:
        shape = ", ".join(map(str, array.shape[1:])) or "1"
        raise InputError(f"{where}: {shape} wide, the robot file of '{robot.robot}' says {width}")
    return array


def vector(values: Any, where: str) -> Floats:
    """Return finite numbers (n,) of (n,) or (n, 1). Raises InputError."""
    array = _numbers(values, where)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{where}: shape {array.shape}, expected one number per transition")
    return array


def flags(values: Any, where: str) -> NDArray[np.bool_]:
    """Return booleans (n,) of 0 and 1. Raises InputError."""
    array = vector(values, where)
    if not np.isin(array, (0.0, 1.0)).all():
        raise InputError(f"{where}: holds other values than 0 and 1")
    return array.astype(np.bool_)


def _numbers(values: Any, where: str) -> Floats:
    try:
        with np.errstate(over="ignore"):
            array: Floats = np.asarray(values).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: not numbers: {error}") from error
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        place = ", ".join(map(str, bad[0]))
        raise InputError(f"{where}[{place}] is not finite ({len(bad)} such values)")
    return array
