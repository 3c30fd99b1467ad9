"""Training on a dataset ten times larger than the memory limit, against the same held in memory.

Makes a dataset of noise, trains on it both ways in turn, each in a process of its own pinned to one
core, and prints steps per second and the memory of the process at its largest. Run it alone on the
machine: `.venv/bin/python benchmarks/streaming.py`.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from offrl_contract import Robot, robot_from_yaml
from offrl_data.dataset import Episode
from offrl_data.dataset_writer import DatasetWriter
from offrl_training.algorithms.bc import BCConfig
from offrl_training.algorithms.td3_bc import TD3BCConfig
from offrl_training.config import TrainingConfig
from offrl_training.process import set_up
from offrl_training.trainer import Trainer
from offrl_training.transitions import capacity, read_dataset

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "streaming.json"
ROBOT = f"""
robot: bench
rate: 20.0
observation:
  - {{name: x, topic: /x, type: a/msg/B, field: [{", ".join(f"x{i}" for i in range(17))}]}}
action:
  - {{name: u, topic: /u, type: a/msg/C, field: [{", ".join(f"u{i}" for i in range(6))}], limits: {[[-1, 1]] * 6}, safe: {[0] * 6}}}
reward: "x_0"
"""  # noqa: E501
ALGORITHMS = {"td3_bc": TD3BCConfig(), "bc": BCConfig()}


@dataclass(frozen=True)
class Config:
    """Measure what streaming costs."""

    limit: int = 32
    """Memory limit [MB]."""
    times: int = 10
    """How much larger the transitions are."""
    episode: int = 1000
    """Rows of each episode."""
    repeats: int = 5
    """Runs of each; the median counts."""
    steps: int = 3000
    """Training steps of a run."""
    measure: tuple[str, Path, int] | None = None
    """Internal: train an algorithm on a dataset in this process; a limit of 0 is none."""


def write_noise(path: Path, rows: int, episode: int, robot: Robot) -> int:
    """Write so many rows of noise or a few more, in episodes of equal length; return how many."""
    random = np.random.default_rng(0)
    with DatasetWriter(path, robot) as writer:
        while writer.transitions < rows:
            observations = random.normal(size=(episode + 1, robot.observation_size))
            actions = random.uniform(-1.0, 1.0, (episode, robot.action_size))
            rewards = random.normal(size=episode)
            parts = (values.astype(np.float32) for values in (observations, actions, rewards))
            writer.append(Episode(*parts, terminal=False, source=""))
        writer.finish({})
        return writer.transitions


def measure(name: str, path: Path, limit: int, steps: int) -> None:
    """Train in this process; print steps per second after the first hundred, and memory."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    set_up(threads=1)
    training = TrainingConfig(steps=steps, memory_limit=limit or None)
    started = time.perf_counter()
    dataset = read_dataset(path, training.memory_limit)
    trainer = Trainer(name, ALGORITHMS[name], training, dataset)
    ready = time.perf_counter()
    for _ in range(100):
        trainer.advance()
    begun = time.perf_counter()
    for _ in range(steps - 100):
        trainer.advance()
    figures = {
        "steps per second": (steps - 100) / (time.perf_counter() - begun),
        "seconds to start": ready - started,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(figures))


def run(name: str, path: Path, limit: int, steps: int) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--steps", str(steps)]
    command += ["--measure", name, str(path), str(limit)]
    output = subprocess.check_output(command, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    figures: dict[str, float] = json.loads(output.splitlines()[-1])
    return figures


def main(config: Config) -> None:
    """Write the dataset, train in turn, print and keep the figures."""
    robot = robot_from_yaml(ROBOT, "bench.yaml")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.h5"
        columns = 2 * robot.observation_size + robot.action_size + 3
        wanted = config.times * config.limit * 1_000_000 // (4 * columns)
        rows = write_noise(path, wanted, config.episode, robot)
        figures: dict[str, Any] = {"limit [MB]": config.limit, "rows": rows}
        figures["rows in memory"] = capacity(read_dataset(path, config.limit), config.limit)
        for name in ALGORITHMS:
            runs: dict[str, list[dict[str, float]]] = {"streamed": [], "in memory": []}
            for _ in range(config.repeats):
                for way, limit in (("streamed", config.limit), ("in memory", 0)):
                    runs[way].append(run(name, path, limit, config.steps))
            medians = {
                way: {key: round(float(np.median([r[key] for r in found])), 1) for key in found[0]}
                for way, found in runs.items()
            }
            speeds = [medians[way]["steps per second"] for way in ("streamed", "in memory")]
            figures[name] = medians | {"streamed / in memory": round(speeds[0] / speeds[1], 3)}
            print(name, json.dumps(figures[name]), flush=True)
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True)
    RESULTS.write_text(json.dumps({"commit": commit.strip(), **figures}, indent=1) + "\n")


if __name__ == "__main__":
    given = tyro.cli(Config)
    if given.measure is not None:
        measure(*given.measure, given.steps)
    else:
        main(given)
