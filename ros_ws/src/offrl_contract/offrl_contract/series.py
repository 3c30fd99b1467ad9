"""Samples in order of time, and the one that holds at a tick."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Times = NDArray[np.int64]
Faults = NDArray[np.uint8]
Texts = NDArray[np.str_]

_LARGEST = float(np.finfo(np.float32).max)


class Fault(IntEnum):
    """Why a term is not usable at a tick."""

    NONE = 0
    MISSING = 1
    """No sample yet."""
    STALE = 2
    """The newest sample is older than max_age."""
    NOT_FINITE = 3
    """NaN, inf or beyond single precision, or a message that could not be decoded."""


@dataclass(frozen=True)
class Series:
    """Samples of one term, in order of time."""

    stamps: Times
    """(n,) [ns], not decreasing."""
    values: Floats
    """(n, d); NaN rows where a message was malformed."""
    received: Times | None = None
    """(n,) [ns] when each arrived, where the stamps are of another clock: not known before."""
    frames: Texts | None = None
    """(n,) the frame in which each pose is given, where the samples are poses."""


@dataclass(frozen=True)
class Sample:
    """One term at T ticks."""

    values: Floats
    """(T, w)."""
    faults: Faults
    """(T,) Fault codes."""
    ages: Times
    """(T,) [ns] of the newest sample used; -1 where there is none."""


def nanoseconds(seconds: float) -> int:
    """Return a duration in whole nanoseconds."""
    return round(seconds * 1e9)


def newest(series: Series, ticks: Times) -> Times:
    """Return the index (T,) of the sample that holds at each tick; -1 where there is none."""
    if series.received is None:
        return np.searchsorted(series.stamps, ticks, side="right") - 1
    known = np.maximum(series.stamps, series.received)
    order = np.argsort(known, kind="stable")
    latest = np.concatenate([[-1], np.maximum.accumulate(order)])  # of all that are known so far
    index: Times = latest[np.searchsorted(known[order], ticks, side="right")]
    return index


def sample(series: Series, ticks: Times, max_age: int) -> Sample:
    """Hold a series causally at ticks (T,) [ns]; samples older than max_age [ns] are stale."""
    if not len(series.stamps):
        empty = np.full((len(ticks), series.values.shape[1]), np.nan)
        return Sample(empty, np.full(len(ticks), Fault.MISSING, np.uint8), np.full(len(ticks), -1))
    index = newest(series, ticks)
    missing = index < 0
    values = series.values[index]
    ages = np.where(missing, -1, ticks - series.stamps[index])
    faults = np.zeros(len(ticks), np.uint8)
    faults[~(np.abs(values) <= _LARGEST).all(axis=1)] = Fault.NOT_FINITE
    faults[ages > max_age] = Fault.STALE
    faults[missing] = Fault.MISSING
    return Sample(values, faults, ages)
