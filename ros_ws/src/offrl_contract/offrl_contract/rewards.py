"""Reward and terminal of transitions, from one definition for logs, simulator and robot."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from offrl_contract.robot import Robot
from offrl_contract.sampling import split_action

Floats = NDArray[np.float64]


def rewards_and_terminals(
    robot: Robot, now: Mapping[str, Floats], then: Mapping[str, Floats], action: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """Evaluate the robot's expressions on transitions.

    `now` and `then` give observation terms and signals (T, w) at ticks k and k+1, `action` (T, a)
    the command in force between them. Returns rewards (T,) and terminals (T,).
    """
    names: dict[str, Floats] = {}
    for prefix, terms in (("", now), ("next_", then)):
        for name, values in terms.items():
            _bind(names, prefix + name, values)
    for term, values in split_action(robot, action):
        _bind(names, term.name, values)
    rewards = robot.reward_expression(names).astype(np.float64)
    return rewards, robot.terminal_expression(names).astype(np.bool_)


def _bind(names: dict[str, Floats], name: str, values: Floats) -> None:
    names[name] = values
    for part in range(values.shape[1]):
        names[f"{name}_{part}"] = values[:, part : part + 1]
