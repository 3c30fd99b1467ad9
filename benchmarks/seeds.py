"""Training N seeds as one program, against the same seeds one after the other, on one CPU thread.

Steps per CPU-second, summed over the seeds, with the gate's critics, at observation 17, action 6,
batch 256. Both ways take turns, a window at a time, and the fastest window of each counts. Run it
alone on the machine: `.venv/bin/python benchmarks/seeds.py`.
"""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from offrl_contract import robot_from_yaml
from offrl_data.dataset import Dataset, load_dataset
from offrl_training.algorithms import ALGORITHMS
from offrl_training.config import TrainingConfig
from offrl_training.process import set_up
from offrl_training.seed_batch import SeedBatch
from offrl_training.trainer import Trainer
from streaming import ROBOT, write_noise
from training import SETTINGS, fastest, processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "seeds.json"
ROWS = 20_000


@dataclass(frozen=True)
class Config:
    """Measure what training seeds together gains."""

    algorithms: tuple[str, ...] = ("bc", "td3_bc", "iql", "sac", "bcq", "cql")
    """Which."""
    widths: tuple[int, ...] = (32, 256)
    """Of both hidden layers, a table each."""
    seeds: tuple[int, ...] = (1, 4, 16)
    """How many seeds at once."""
    seconds: float = 4.0
    """CPU time for each way, at least."""


def trainers(name: str, width: int, count: int, dataset: Dataset) -> list[Trainer]:
    """Return so many seeds of an algorithm, after its warm start."""
    kind = ALGORITHMS[name].config_type
    hidden = {key: (width, width) for key in kind.model_fields if key.endswith("hidden")}
    settings = kind.model_validate({**SETTINGS.get(name, {}), **hidden})
    seeds = (TrainingConfig(seed=seed) for seed in range(count))
    return [Trainer(name, settings, training, dataset) for training in seeds]


def measure(name: str, width: int, count: int, config: Config, dataset: Dataset) -> dict[str, Any]:
    """Return the summed speeds of both ways, and their ratio."""
    batch = SeedBatch(trainers(name, width, count, dataset))
    alone = trainers(name, width, count, dataset)

    def one_after_the_other() -> None:
        for trainer in alone:
            trainer.advance()

    ways = {"together": (batch.advance, 1), "alone": (one_after_the_other, 1)}
    rates = {way: count * each["cpu"] for way, each in fastest(ways, config.seconds).items()}
    ratio = {"together / alone": rates["together"] / rates["alone"]}
    return {key: float(f"{value:.3g}") for key, value in (rates | ratio).items()}


def main(config: Config) -> None:
    """Measure all, print and keep the figures."""
    set_up(threads=1)
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True)
    figures: dict[str, Any] = {"commit": commit.strip(), "processor": processor()}
    figures["torch"] = str(torch.__version__)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.h5"
        write_noise(path, ROWS, 1000, robot_from_yaml(ROBOT, "bench.yaml"))
        dataset = load_dataset(path)
    for width in config.widths:
        for name in config.algorithms:
            for count in config.seeds:
                found = measure(name, width, count, config, dataset)
                place = figures.setdefault(f"two layers of {width}", {}).setdefault(name, {})
                place[f"{count} seeds"] = found
                print(width, name, count, json.dumps(found), flush=True)
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
