"""Poses in another frame, through the transforms of /tf and /tf_static.

A transform says where a child frame is in its parent, so it is a pose of the child. Poses are rows
x, y, z [m] and qx, qy, qz, qw; the full pose is carried along the path, and x, y and yaw of the
result are kept, as planar robots need. Which frame is whose parent may change over time: a path is
found at each tick.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from offrl_contract.series import (
    Fault,
    Floats,
    Sample,
    Series,
    Texts,
    Times,
    newest,
    sample,
    usable,
)
from offrl_contract.transforms import yaw_of

Rows = NDArray[np.intp]
POSE_PARTS = 7


@dataclass(frozen=True)
class Edge:
    """A frame in its parent over time."""

    series: Series
    """Poses (n, 7); `frames` are the parents."""
    static: NDArray[np.bool_]
    """(n,) whether a sample holds for ever."""


Tree = Mapping[str, Edge]
"""By child frame."""
NO_TREE: Tree = MappingProxyType({})


def clean(frame_id: str) -> str:
    """Return a frame id without the leading slash that ROS 1 allowed."""
    return frame_id.removeprefix("/")


def tree_of(dynamic: Mapping[str, Series], static: Mapping[str, Series]) -> dict[str, Edge]:
    """Join the transforms of /tf and of /tf_static, each by child frame."""
    return {child: _edge(static.get(child), dynamic.get(child)) for child in {**dynamic, **static}}


def _edge(static: Series | None, dynamic: Series | None) -> Edge:
    found = [(each, fixed) for each, fixed in ((static, True), (dynamic, False)) if each]
    stamps = np.concatenate([each.stamps for each, _ in found])
    values = np.concatenate([each.values for each, _ in found])
    frames = np.concatenate([_frames(each) for each, _ in found])
    fixed = np.concatenate([np.full(len(each.stamps), kind) for each, kind in found])
    order = np.argsort(stamps, kind="stable")
    return Edge(Series(stamps[order], values[order], frames=frames[order]), fixed[order])


def compose(outer: Floats, inner: Floats) -> Floats:
    """Return poses (..., 7) of what is at `inner` in a frame that is at `outer`."""
    place = outer[..., :3] + _rotate(outer[..., 3:], inner[..., :3])
    return np.concatenate([place, _multiply(outer[..., 3:], inner[..., 3:])], axis=-1)


def invert(pose: Floats) -> Floats:
    """Return the pose (..., 7) of the parent in the child."""
    turn = pose[..., 3:] * [-1.0, -1.0, -1.0, 1.0]
    return np.concatenate([-_rotate(turn, pose[..., :3]), turn], axis=-1)


def normalised(pose: Floats) -> Floats:
    """Return poses (..., 7) with unit quaternions; one of length zero gives NaN."""
    turn = pose[..., 3:]
    with np.errstate(invalid="ignore"):
        unit = turn / np.linalg.norm(turn, axis=-1, keepdims=True)
    return np.concatenate([pose[..., :3], unit], axis=-1)


def planar(pose: Floats) -> Floats:
    """Return x, y [m] and yaw [rad] (..., 3) of poses (..., 7)."""
    return np.concatenate([pose[..., :2], yaw_of(pose[..., 3:])], axis=-1)


def sample_pose(
    series: Series, ticks: Times, target: str, tree: Tree, max_age: int, frame_max_age: int
) -> Sample:
    """Hold poses (n, 7) at ticks (T,) [ns] and express them in a frame: x, y, yaw (T, 3).

    A pose is expressed anew at every tick, by the transforms known then. Without a path the tick is
    MISSING; a transform of /tf older than `frame_max_age` [ns] makes it STALE.
    """
    held = sample(series, ticks, max_age)
    values = np.full((len(ticks), 3), np.nan)
    faults, ages = held.faults.copy(), held.ages.copy()
    rows = np.flatnonzero(faults == Fault.NONE)
    sources = _frames(series)[newest(series, ticks[rows])]
    for source in np.unique(sources).tolist():
        mine = rows[sources == source]
        for group, up in _lineages(tree, source, ticks, mine):
            for part, down in _lineages(tree, clean(target), ticks, group):
                path = _path(up, down)
                if path is None:
                    faults[part] = Fault.MISSING
                    continue
                moved, age = _carry(tree, path, ticks[part], normalised(held.values[part]))
                values[part] = planar(moved)
                old = age > frame_max_age
                ages[part[old]] = age[old]
                faults[part[~usable(values[part]).all(axis=1)]] = Fault.NOT_FINITE
                faults[part[old]] = Fault.STALE
    return Sample(values, faults, ages)


Path = tuple[tuple[str, ...], tuple[str, ...]]
"""Frames from the source up to below the common ancestor, and the same from the target."""


def _path(up: tuple[str, ...], down: tuple[str, ...]) -> Path | None:
    common = next((name for name in up if name in down), None)
    return None if common is None else (up[: up.index(common)], down[: down.index(common)])


def _lineages(
    tree: Tree, frame: str, ticks: Times, rows: Rows
) -> Iterator[tuple[Rows, tuple[str, ...]]]:
    """Yield groups of rows that share the frames above `frame`, and those, itself first."""
    waiting: list[tuple[Rows, tuple[str, ...]]] = [(rows, (frame,))]
    while waiting:
        rows, names = waiting.pop()
        edge = tree.get(names[-1])
        index = newest(edge.series, ticks[rows]) if edge else np.full(len(rows), -1)
        if (index < 0).any():
            yield rows[index < 0], names
        if edge is None:
            continue
        rows, parents = rows[index >= 0], _frames(edge.series)[index[index >= 0]]
        for parent in np.unique(parents).tolist():
            above = rows[parents == parent]
            if parent in names:  # a loop has no root
                yield above, names
            else:
                waiting.append((above, (*names, parent)))


def _carry(tree: Tree, path: Path, ticks: Times, pose: Floats) -> tuple[Floats, Times]:
    """Take poses (T, 7) along a path; return them and the age [ns] of its oldest transform."""
    up, down = path
    ages = np.zeros(len(ticks), np.int64)
    back = np.tile([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], (len(ticks), 1))
    for frame in up:
        pose = compose(_at(tree[frame], ticks, ages), pose)
    for frame in down:
        back = compose(_at(tree[frame], ticks, ages), back)
    return compose(invert(back), pose), ages


def _at(edge: Edge, ticks: Times, ages: Times) -> Floats:
    """Return the poses (T, 7) of a frame in its parent; raise `ages` to theirs."""
    index = newest(edge.series, ticks)
    own = np.where(edge.static[index], 0, ticks - edge.series.stamps[index])
    np.maximum(ages, own, out=ages)
    return normalised(edge.series.values[index])


def _frames(series: Series) -> Texts:
    assert series.frames is not None
    return series.frames


def _multiply(a: Floats, b: Floats) -> Floats:
    """Return the Hamilton products (..., 4) of quaternions x, y, z, w."""
    vector = a[..., 3:] * b[..., :3] + b[..., 3:] * a[..., :3] + np.cross(a[..., :3], b[..., :3])
    scalar = a[..., 3:] * b[..., 3:] - (a[..., :3] * b[..., :3]).sum(axis=-1, keepdims=True)
    return np.concatenate([vector, scalar], axis=-1)


def _rotate(turn: Floats, vector: Floats) -> Floats:
    """Rotate vectors (..., 3) by unit quaternions (..., 4)."""
    twice = 2.0 * np.cross(turn[..., :3], vector)
    return vector + turn[..., 3:] * twice + np.cross(turn[..., :3], twice)
