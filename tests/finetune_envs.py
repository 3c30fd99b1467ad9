"""Environments of the point of tests/training, for a process of their own."""

import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import register
from gymnasium.spaces import Box
from offrl_contract import Robot, load_robot

GOAL, STILL, LENGTH = 10.0, 0.5, 25


class Point(gymnasium.Env[Any, Any]):
    """Moves by 0.2 s times (action - 0.5); the base follows commands up to a limit of its own."""

    crash_at: int | None = None
    """Steps since its process began at which that process dies."""

    def __init__(self, robot: str = "", profile: str = "") -> None:
        self.robot: Robot = load_robot(robot)
        self.profile = profile
        self.action_space = Box(np.float32([-0.5]), np.float32([1.5]))
        self.observation_space = Box(-np.inf, np.inf, (1,))
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:  # noqa: ARG002
        super().reset(seed=seed)
        self.x = GOAL + self.np_random.uniform(-1.0, 1.0)
        self.ticks = 0
        return np.float32([self.x]), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps == self.crash_at:
            os._exit(1)
        command = np.clip(action, -0.4, 1.4).astype(np.float32)
        self.x += 0.2 * float(command[0] - STILL) + 0.01 * self.np_random.normal()
        self.ticks += 1
        off = abs(self.x - GOAL)
        info = {"command": command, "success": off < 0.2}
        return np.float32([self.x]), -off, off > 2.0, self.ticks == LENGTH, info


class Crashing(Point):
    """Dies every 40 steps."""

    crash_at = 40


class Broken(Point):
    """Dies at its first step."""

    crash_at = 1


class Slow(Point):
    """Its commands have an effect after a second."""

    delay = 1.0


class Other(Point):
    """Is another robot."""

    def __init__(self, robot: str = "", **kwargs: Any) -> None:
        super().__init__(robot, **kwargs)
        self.robot = self.robot.model_copy(update={"rate": 2.0})


class Wide(Point):
    """Tells no robot, and sees more."""

    def __init__(self) -> None:
        self.robot = None  # type: ignore[assignment]
        self.action_space = Box(np.float32([-0.5]), np.float32([1.5]))
        self.observation_space = Box(-np.inf, np.inf, (3,))


for _kind in (Point, Crashing, Broken, Slow, Other, Wide):
    register(f"{_kind.__name__}-v0", entry_point=_kind)
