"""Whether `--precision bf16` leaves returns as they are: the same runs in both, on one dataset.

Trains on the navigation data of `scores.py` with its settings and budget, and drives the same
scenarios. A seed decides batches, networks and noise, so the two runs of a seed differ in nothing
but the products. Every finished run is a line of a file, so that a stopped benchmark goes on.

`.venv/bin/python benchmarks/precision.py`, on one core that multiplies bfloat16.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tyro
from offrl_training.algorithms import ALGORITHMS
from offrl_training.config import TrainingConfig
from offrl_training.process import set_up
from offrl_training.trainer import Trainer
from scores import ROOT, SETTINGS, Task, in_si, navigation
from scores import Config as Scores
from training import processor

RESULTS = ROOT / "benchmarks" / "results" / "precision.json"
Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class Config:
    """Train in single precision and in bfloat16, and drive."""

    algorithms: tuple[str, ...] = ("td3_bc", "iql", "cql")
    """Which."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of batches, networks and noise."""
    data: Path = Path("scores_data")
    """Folder of the dataset and of finished runs; made where it is missing."""


def run(task: Task, algorithm: str, precision: Precision, seed: int) -> float:
    """Train and drive once; return the normalised mean return."""
    budget = Scores()
    kind = ALGORITHMS[algorithm].config_type
    widths = {name: budget.hidden for name in kind.model_fields if name.endswith("hidden")}
    settings = kind.model_validate({**widths, "gamma": task.gamma, **SETTINGS[algorithm]})
    training = TrainingConfig(
        steps=budget.steps, batch=budget.batch, seed=seed, held_out=0.0, precision=precision
    )
    trainer = Trainer(algorithm, settings, training, task.dataset)
    for _ in range(budget.steps):
        trainer.advance()
    policy = trainer.algorithm.policy
    return task.normalised(task.drive(in_si(policy, trainer.algorithm.normaliser)))


def main(config: Config) -> None:
    """Do what is not done yet; print and keep the figures."""
    set_up(threads=1)
    config.data.mkdir(parents=True, exist_ok=True)
    task = navigation(Scores(data=config.data))
    path = config.data / "precision.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(line["algorithm"], line["precision"], line["seed"]): line["score"] for line in lines}
    for seed in config.seeds:
        for algorithm in config.algorithms:
            for precision in get_args(Precision):
                key = (algorithm, precision, seed)
                if key in done:
                    continue
                done[key] = run(task, algorithm, precision, seed)
                line = dict(zip(("algorithm", "precision", "seed"), key, strict=True))
                with path.open("a") as file:
                    file.write(json.dumps({**line, "score": done[key]}) + "\n")
                print(*key, round(done[key], 1), flush=True)
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True)
    cells = {name: cell(done, name, config.seeds) for name in config.algorithms}
    about = {"commit": commit.strip(), "processor": processor(), "dataset": task.dataset.digest}
    RESULTS.write_text(json.dumps({**about, "cells": cells}, indent=1) + "\n")
    print(json.dumps(cells, indent=1))


def cell(
    done: dict[tuple[str, Precision, int], float], algorithm: str, seeds: tuple[int, ...]
) -> dict[str, Any]:
    """Return mean and standard error over seeds of both, and of their differences by seed."""
    scores = {
        p: np.array([done[algorithm, p, seed] for seed in seeds]) for p in get_args(Precision)
    }
    scores["bf16 - float32"] = scores["bf16"] - scores["float32"]
    return {
        name: {
            "mean": round(float(each.mean()), 1),
            "standard_error": round(float(each.std(ddof=1) / len(each) ** 0.5), 1),
            "by seed": [round(float(value), 1) for value in each],
        }
        for name, each in scores.items()
    }


if __name__ == "__main__":
    main(tyro.cli(Config))
