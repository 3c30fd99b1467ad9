"""Rollouts of a policy on seeded scenarios."""

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium
import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError

from offrl_sim.env import TaskEnv
from offrl_sim.simulation import Disturbance, Scenario

Vector = NDArray[np.float32]
Policy = Callable[[Vector], Vector]
"""From an observation (o,) to a command (a,), both in SI units."""


@dataclass(frozen=True)
class EpisodeResult:
    """One episode."""

    seed: int
    """Seed of the scenario."""
    rewards: NDArray[np.float64]
    """(length,)"""
    episode_return: float
    """Undiscounted sum of rewards."""
    length: int
    """Ticks."""
    success: bool
    """The task was done."""
    collided: bool
    """The robot bumped into something."""
    path: NDArray[np.float64]
    """(length + 1, 2) positions in the arena's frame [m]."""
    world: Scenario
    """Where it drove."""


def rollout(
    env: gymnasium.Env[Vector, Vector],
    policy: Policy,
    episodes: int,
    seed: int,
    begin: Callable[[int], None] | None = None,
    disturbance: Disturbance | None = None,
) -> list[EpisodeResult]:
    """Drive `episodes` episodes; number i has the scenario of seed + i, whatever the policy.

    `begin` is called with that seed before each episode, for policies that remember.
    """
    results = []
    for scenario in range(seed, seed + episodes):
        if begin is not None:
            begin(scenario)
        results.append(_episode(env, policy, scenario, disturbance))
    return results


def rollout_behaviour(env: TaskEnv, episodes: int, seed: int) -> list[EpisodeResult]:
    """Drive the same scenarios as `rollout` with the recorded driver."""
    behaviour = env.task.behaviour(env.robot)

    def begin(scenario: int) -> None:
        behaviour.begin(behaviour_rng(scenario))

    return rollout(env, behaviour, episodes, seed, begin)


def behaviour_rng(scenario: int) -> np.random.Generator:
    """Return the driver's random numbers, apart from those of the scenario.

    Raises InputError for a scenario below 0.
    """
    if scenario < 0:
        raise InputError(f"--seed {scenario}: must be 0 or more")
    return np.random.default_rng([scenario, 1])


def _episode(
    env: gymnasium.Env[Vector, Vector], policy: Policy, seed: int, disturbance: Disturbance | None
) -> EpisodeResult:
    observation, info = env.reset(seed=seed, options={"disturbance": disturbance})
    world: Scenario = info["world"]
    rewards: list[float] = []
    path = [info["pose"][:2]]
    done = False
    while not done:
        observation, reward, terminal, timeout, info = env.step(policy(observation))
        rewards.append(float(reward))
        path.append(info["pose"][:2])
        done = terminal or timeout
    return EpisodeResult(
        seed=seed,
        rewards=np.array(rewards),
        episode_return=float(np.sum(rewards)),
        length=len(rewards),
        success=info["success"],
        collided=info["collided"],
        path=np.array(path),
        world=world,
    )
