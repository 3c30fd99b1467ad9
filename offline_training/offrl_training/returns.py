"""Returns of the logged episodes, transition by transition."""

import numpy as np
from numpy.typing import NDArray
from offrl_data.dataset import Dataset


def returns_to_go(dataset: Dataset, gamma: float) -> NDArray[np.float64]:
    """Return sum_k gamma^k r_{t+k} of each transition (N,), from it to the end of the task.

    After a terminal nothing follows. After a timeout the task went on: what followed stands in as
    the episode's mean reward without end. An episode of failures alone, each rewarded r, is thus
    worth r / (1 - gamma) throughout, as in Cal-QL's code.
    """
    ends = dataset.starts + dataset.lengths  # (E,)
    mean_rewards = dataset.returns() / dataset.lengths
    following = np.where(dataset.terminals[ends - 1], 0.0, mean_rewards / (1.0 - gamma))  # (E,)
    returns = np.empty(len(dataset))
    for back in range(1, int(dataset.lengths.max()) + 1):
        reaches = dataset.lengths >= back
        rows = ends[reaches] - back
        following[reaches] = dataset.rewards[rows] + gamma * following[reaches]
        returns[rows] = following[reaches]
    return returns
