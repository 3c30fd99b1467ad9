"""Samples in order of time, and the one that holds at a tick."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

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


class Held(Protocol):
    """What knows the sample of a term that holds at a time."""

    def hold(self, ticks: Times) -> tuple[Floats, Times]:
        """Return the values (T, d) that hold at ticks (T,) [ns], and their ages (T,) [ns].

        A sample is no younger than its reception, whatever its stamp; -1 where there is none.
        """
        ...


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

    def hold(self, ticks: Times) -> tuple[Floats, Times]:
        """Hold causally: the newest sample that has arrived by each tick."""
        if not len(self.stamps):
            return np.full((len(ticks), self.values.shape[1]), np.nan), np.full(len(ticks), -1)
        index = newest(self, ticks)
        stamps = self.stamps[index]
        if self.received is not None:
            stamps = np.minimum(stamps, self.received[index])
        return self.values[index], np.where(index < 0, -1, ticks - stamps)


@dataclass(frozen=True)
class Sample:
    """One term at T ticks."""

    values: Floats
    """(T, w)."""
    faults: Faults
    """(T,) Fault codes."""
    ages: Times
    """(T,) [ns] of the newest sample used; -1 where there is none."""


def usable(values: Floats) -> NDArray[np.bool_]:
    """Whether values are finite in single precision, which the network has."""
    fits: NDArray[np.bool_] = np.abs(values) <= _LARGEST
    return fits


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


def sample(held: Held, ticks: Times, max_age: int) -> Sample:
    """Sample a term at ticks (T,) [ns]; what is older than max_age [ns] is stale."""
    values, ages = held.hold(ticks)
    good = usable(values).all(axis=1)
    faults = np.where(good, np.uint8(Fault.NONE), np.uint8(Fault.NOT_FINITE))
    faults[ages > max_age] = Fault.STALE
    faults[ages < 0] = Fault.MISSING
    return Sample(values, faults, ages)
