"""Returns of logged episodes: the whole of what follows, or the next n ticks of it."""

import numpy as np
from numpy.typing import NDArray


def returns_to_go(
    rewards: NDArray[np.float32],
    lengths: NDArray[np.int64],
    terminals: NDArray[np.bool_],
    gamma: float,
) -> NDArray[np.float64]:
    """Return sum_k gamma^k r_{t+k} of each transition (N,), from it to the end of the task.

    For whole episodes one after the other: rewards (N,), lengths (E,), whether each ended by a
    terminal (E,). After a terminal nothing follows. After a timeout the task went on: what followed
    stands in as the episode's mean reward without end. An episode of failures alone, each rewarded
    r, is thus worth r / (1 - gamma) throughout, as in Cal-QL's code.
    """
    ends = np.cumsum(lengths)  # (E,)
    mean_rewards = np.add.reduceat(rewards.astype(np.float64), ends - lengths) / lengths
    following = np.where(terminals, 0.0, mean_rewards / (1.0 - gamma))  # (E,)
    returns = np.empty(len(rewards))
    for back in range(1, int(lengths.max()) + 1):
        reaches = lengths >= back
        rows = ends[reaches] - back
        following[reaches] = rewards[rows] + gamma * following[reaches]
        returns[rows] = following[reaches]
    return returns


def n_step_returns(
    rewards: NDArray[np.float32], ticks: NDArray[np.int64], gamma: float
) -> NDArray[np.float64]:
    """Return sum_{k < m} gamma^k r_{t+k} (B,) of the first B of some rewards, m = ticks (B,) each.

    The n-step return of Sutton and Barto (2018), section 7.1, without the value that follows.
    """
    returns = np.zeros(len(ticks))
    for k in range(int(ticks.max(initial=0))):
        reaches = np.flatnonzero(ticks > k)
        returns[reaches] += gamma**k * rewards[reaches + k]
    return returns
