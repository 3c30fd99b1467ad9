"""One episode of a task's recorded driver, kept tick by tick, to be drawn or filmed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl_sim.env import TaskEnv
from offrl_sim.evaluate import behaviour_rng
from offrl_sim.simulation import Scenario

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trace:
    """What happened in one episode of T ticks."""

    task: str
    seed: int
    driver: str
    """Kind of driver."""
    world: Scenario
    places: Floats
    """(T + 1, 3) x, y, z of the robot's centre, or of its hand [m]."""
    yaws: Floats
    """(T + 1,) heading [rad]."""
    links: Floats
    """(T + 1, k, 3) places of the robot's links [m]."""
    commands: Floats
    """(T, a) in force, SI units."""
    rewards: Floats
    """(T,)"""
    period: float
    """Time between ticks [s]."""
    success: bool
    collided: bool
    timeout: bool

    @property
    def seconds(self) -> float:
        """How long it took [s]."""
        return len(self.rewards) * self.period

    @property
    def speeds(self) -> Floats:
        """Mean speed during each tick (T,) [m/s]."""
        steps: Floats = np.linalg.norm(np.diff(self.places, axis=0), axis=1)
        return steps / self.period

    @property
    def outcome(self) -> str:
        """How it ended, in a word or two."""
        if self.success:
            return "success"
        if self.collided:
            return "collision"
        return "out of time" if self.timeout else "failure"

    def __str__(self) -> str:
        return (
            f"{self.task}, scenario {self.seed}: {self.driver} driver, return "
            f"{self.rewards.sum():.2f} in {self.seconds:.1f} s, {self.outcome}"
        )


def drive(env: TaskEnv, seed: int) -> Trace:
    """Drive scenario `seed` as `offrl record` does."""
    behaviour = env.task.behaviour(env.robot)
    behaviour.begin(behaviour_rng(seed))
    observation, info = env.reset(seed=seed)
    world = info["world"]
    rows: list[dict[str, Any]] = []
    seen = [_seen(env)]
    terminal = timeout = False
    while not (terminal or timeout):
        observation, reward, terminal, timeout, info = env.step(behaviour(observation))
        rows.append({"reward": reward, "command": info["command"]})
        seen.append(_seen(env))
    places, yaws, links = (np.array(column) for column in zip(*seen, strict=True))
    return Trace(
        task=env.task.name,
        seed=seed,
        driver=behaviour.skill.kind,
        world=world,
        places=places,
        yaws=yaws,
        links=links,
        commands=np.array([row["command"] for row in rows], np.float64),
        rewards=np.array([row["reward"] for row in rows]),
        period=1.0 / env.robot.rate,
        success=info["success"],
        collided=info["collided"],
        timeout=timeout,
    )


def _seen(env: TaskEnv) -> tuple[tuple[float, float, float], float, Floats]:
    body = env.simulation.body
    return (body.x, body.y, body.z), body.yaw, env.simulation.links
