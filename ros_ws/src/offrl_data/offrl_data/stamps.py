"""Which messages a tick can pick, and where a log pauses, by their stamps alone."""

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]
Rows = NDArray[np.int64]


def newest_at_ticks(stamps: Times, known: Times, period: int) -> Rows:
    """Return the rows that are the newest of those known at some tick.

    Stamps (n,) and when each is known (n,) [ns], the latter counting from any tick; ticks are a
    period [ns] apart. Of rows with one stamp it is the last. Another block may have newer ones.
    """
    ticks = -(-known // period)
    order = np.arange(len(stamps))
    if not len(ticks):
        return order
    if (np.diff(stamps) < 0).any() or (np.diff(ticks) < 0).any():
        order = np.lexsort((stamps, ticks))
        ticks = ticks[order]
    return np.sort(order[np.append(ticks[1:] != ticks[:-1], True)])


def ends_of_stretches(stamps: Times, width: int) -> Times:
    """Return the first and the last stamp (n,) in each stretch of `width` [ns] that has any.

    A pause longer than twice the width has a stretch without stamps in it: both its ends are kept.
    """
    if (np.diff(stamps) < 0).any():
        stamps = np.sort(stamps)
    stretch = stamps // max(width, 1)
    new = np.append(True, stretch[1:] != stretch[:-1])[: len(stamps)]
    ends: Times = stamps[new | np.append(new[1:], True)[: len(stamps)]]
    return ends
