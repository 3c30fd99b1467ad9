"""From raw fields to the numbers of a term. Everything works on (T, ...) and (1, ...) alike."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl_contract.robot import Term

Array = NDArray[np.float64]

_REDUCE: dict[str, Any] = {"min": np.fmin, "max": np.fmax}
_MANY_ROWS = 32  # with fewer, run after run is quicker
_CACHED = 1 << 19  # [bytes]


def reduce_bins(values: Array, bins: int, reduce: str) -> Array:
    """Reduce readings (..., n) to (..., bins) over equal runs of neighbours, leaving NaN out.

    A bin of nothing but NaN is NaN. Raises ValueError where there are fewer readings than bins.
    """
    count = values.shape[-1]
    if count < bins:
        raise ValueError(f"{count} readings for {bins} bins")
    edges = np.arange(bins) * count // bins
    if reduce in _REDUCE:
        return _extremes(_REDUCE[reduce], values, edges)
    known = ~np.isnan(values)
    total = np.add.reduceat(np.where(known, values, 0.0).astype(np.float64), edges, axis=-1)
    number = np.add.reduceat(known.astype(np.float64), edges, axis=-1)
    with np.errstate(invalid="ignore"):
        mean: Array = total / number
    return mean


def _extremes(operator: Any, values: Array, edges: NDArray[np.int64]) -> Array:
    """Return the extremes (..., bins) of runs of neighbours, each from an edge to the next.

    Many rows go through a sparse table, a few at a time so that they stay in the cache.
    """
    if len(values) < _MANY_ROWS:
        runs: Array = operator.reduceat(values, edges, axis=-1)
        return runs
    extremes = np.empty((*values.shape[:-1], len(edges)), values.dtype)
    step = max(1, _CACHED * len(values) // values.nbytes)
    for begin in range(0, len(values), step):
        rows = slice(begin, begin + step)
        extremes[rows] = _by_sparse_table(operator, values[rows], edges)
    return extremes


def _by_sparse_table(operator: Any, values: Array, edges: NDArray[np.int64]) -> Array:
    """Return the extremes (..., bins) by windows whose width doubles until two cover a run.

    Each doubling is one pass over neighbours in memory, which takes half the time of run after
    run. Source: Bender and Farach-Colton (2000), The LCA Problem Revisited, section 3.
    """
    ends = np.append(edges[1:], values.shape[-1])
    shortest = int((ends - edges).min())
    table = np.ascontiguousarray(values).reshape(-1)
    target, spare = np.empty_like(table), np.empty_like(table)
    width, reach = 1, len(table)
    while 2 * width <= shortest:  # a window that leaves its row is not looked at
        reach -= width
        operator(table[:reach], table[width : reach + width], out=target[:reach])
        table, target, spare = target, spare, target
        width *= 2
    windows = table.reshape(values.shape)
    extremes: Array = operator(windows[..., edges], windows[..., ends - width])
    return extremes


def yaw_of(quaternion: Array) -> Array:
    """Return the heading about z [rad] (..., 1) of quaternions x, y, z, w (..., 4), REP-103.

    Their length does not matter; one of length zero has no heading and gives NaN.
    """
    x, y, z, w = np.moveaxis(quaternion, -1, 0)
    yaw = np.arctan2(2.0 * (w * z + x * y), w * w + x * x - y * y - z * z)
    known: Array = np.where(np.any(quaternion, axis=-1), yaw, np.nan)
    return known[..., None]


def wrap_angle(angle: Array) -> Array:
    """Wrap angles [rad] into [-pi, pi)."""
    wrapped: Array = (angle + np.pi) % (2.0 * np.pi) - np.pi
    return wrapped


def reduced(term: Term, raw: Array) -> Array:
    """Turn raw fields (T, fields, n) into the values of a term (T, parts), not yet clipped."""
    values = raw
    if term.bins:
        values = reduce_bins(values, term.bins, term.reduce)
    values = values.astype(np.float64, copy=False)
    if term.yaw:
        values = yaw_of(values)
    if term.wrap:
        values = wrap_angle(values)
    return values.reshape(len(raw), -1)


def clipped(term: Term, values: Array) -> Array:
    """Limit values (T, parts) to the term's `clip`; NaN stays."""
    return np.clip(values, *term.clip) if term.clip else values
