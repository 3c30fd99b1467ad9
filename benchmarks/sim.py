"""Control steps per CPU-second of each simulated task, beside bare `stepSimulation`, the limit.

The same bodies, moving, with nothing but PyBullet's steps: what no environment on these bodies can
beat. Beside ours, in the same measure, the arm of pybullet_envs_gymnasium that reaches for a goal,
where that is installed (extra `benchmarks`). All run by turns in one process and the fastest of
each counts. Run it alone on the machine: `.venv/bin/python benchmarks/sim.py`; results are kept
only where nothing else runs.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import pybullet
import tyro
from offrl_sim.env import TaskEnv
from offrl_sim.evaluate import behaviour_rng
from offrl_sim.physics import STEPS_PER_SECOND
from offrl_sim.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "sim.json"
PEER = "ReacherBulletEnv-v0"
"""Task of pybullet_envs_gymnasium that is nearest to one of ours, `PandaReach`."""
PEER_SUBSTEPS = 1
"""Its physics steps in a control step (`frame_skip` in its gym_manipulator_envs.py)."""
QUIET = 0.3
"""Load average above which results are printed but not kept."""


@dataclass(frozen=True)
class Config:
    """Time the simulator."""

    steps: int = 1000
    """Control steps of a run."""
    repeats: int = 5
    """Runs of each kind; the fastest counts."""


def run_env(env: TaskEnv, steps: int) -> float:
    """Drive with the recorded driver, resets included; return CPU seconds."""
    behaviour = env.task.behaviour(env.robot)
    scenario = 0
    begun = time.process_time()
    done = True
    for _ in range(steps):
        if done:
            behaviour.begin(behaviour_rng(scenario))
            observation, _ = env.reset(seed=scenario)
            scenario += 1
        observation, _, terminal, timeout, _ = env.step(behaviour(observation))
        done = terminal or timeout
    return time.process_time() - begun


def run_bare(env: TaskEnv, steps: int) -> float:
    """Step the bodies as often, from the middle of a drive on; return CPU seconds."""
    behaviour = env.task.behaviour(env.robot)
    behaviour.begin(behaviour_rng(0))
    observation, _ = env.reset(seed=0)
    for _ in range(10):
        observation, *_ = env.step(behaviour(observation))
    client = env.simulation._physics._client
    begun = time.process_time()
    for _ in range(round(steps * STEPS_PER_SECOND / env.robot.rate)):
        pybullet.stepSimulation(physicsClientId=client)
    return time.process_time() - begun


def run_peer(env: Any, steps: int) -> float:
    """Drive theirs with random actions, resets included; return CPU seconds."""
    env.action_space.seed(0)
    begun = time.process_time()
    done = True
    for _ in range(steps):
        if done:
            env.reset(seed=0)
        _, _, terminal, timeout, _ = env.step(env.action_space.sample())
        done = terminal or timeout
    return time.process_time() - begun


def run_peer_bare(env: Any, steps: int) -> float:
    """Step their bodies as often; return CPU seconds."""
    env.reset(seed=0)
    for _ in range(10):
        env.step(env.action_space.sample())
    client = env.unwrapped.physicsClientId
    begun = time.process_time()
    for _ in range(steps * PEER_SUBSTEPS):
        pybullet.stepSimulation(physicsClientId=client)
    return time.process_time() - begun


def measure(
    config: Config, substeps: float, run: Callable[[int], float], bare: Callable[[int], float]
) -> dict[str, Any]:
    """Time an environment and its bodies alone, by turns."""
    seconds: dict[str, list[float]] = {"environment": [], "bare": []}
    for _ in range(config.repeats):
        seconds["environment"].append(run(config.steps))
        seconds["bare"].append(bare(config.steps))
    rates = {name: config.steps / min(each) for name, each in seconds.items()}
    return {
        "physics steps per control step": substeps,
        "control steps per CPU-second": {name: round(rate) for name, rate in rates.items()},
        "share of the limit": round(rates["environment"] / rates["bare"], 3),
    }


def main(config: Config) -> None:
    """Time every task, print and keep the figures."""
    load = os.getloadavg()[0]
    figures: dict[str, Any] = {}
    for task in TASKS:
        with closing(TaskEnv(task)) as env:
            substeps = STEPS_PER_SECOND / env.robot.rate
            runs = partial(run_env, env), partial(run_bare, env)
            figures[task] = measure(config, substeps, *runs)
        print(task, json.dumps(figures[task]), flush=True)
    if find_spec("pybullet_envs_gymnasium"):
        with closing(gymnasium.make(f"pybullet_envs_gymnasium:{PEER}")) as peer:
            runs = partial(run_peer, peer), partial(run_peer_bare, peer)
            figures[PEER] = measure(config, PEER_SUBSTEPS, *runs)
        print(PEER, json.dumps(figures[PEER]), flush=True)
    else:
        print(f"{PEER}: pybullet_envs_gymnasium is not installed")
    if load > QUIET:
        print(f"not kept: the load average was {load:.2f}, above {QUIET}")
        return
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True)
    RESULTS.write_text(json.dumps({"commit": commit.strip(), **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
