"""Reward and terminal of transitions, from one definition for logs, simulator and robot."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl_contract.expression import Expression
from offrl_contract.python_function import PythonFunction
from offrl_contract.robot import Robot
from offrl_contract.sampling import split_action

Floats = NDArray[np.float64]


def rewards_and_terminals(
    robot: Robot, now: Mapping[str, Floats], then: Mapping[str, Floats], action: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """Evaluate the robot's reward and terminal on transitions.

    `now` and `then` give observation terms and signals (T, w) at ticks k and k+1, `action` (T, a)
    the command in force between them. Returns rewards (T,) and terminals (T,); the reward is NaN
    where the terminal is.
    """
    rewards = _evaluate(robot, robot.reward_rule, now, then, action).astype(np.float64)
    terminals = _evaluate(robot, robot.terminal_rule, now, then, action).astype(np.float64)
    unknown = np.isnan(terminals)
    return np.where(unknown, np.nan, rewards), (terminals != 0) & ~unknown


def _evaluate(
    robot: Robot,
    rule: Expression | PythonFunction,
    now: Mapping[str, Floats],
    then: Mapping[str, Floats],
    action: Floats,
) -> NDArray[Any]:
    if isinstance(rule, PythonFunction):
        return rule(now, then, action)
    names: dict[str, Floats] = {}
    for prefix, terms in (("", now), ("next_", then)):
        for name, values in terms.items():
            _bind(names, prefix + name, values)
    for term, values in split_action(robot, action):
        _bind(names, term.name, values)
    return rule(names)


def _bind(names: dict[str, Floats], name: str, values: Floats) -> None:
    names[name] = values
    for part in range(values.shape[1]):
        names[f"{name}_{part}"] = values[:, part : part + 1]
