"""Whether what makes training faster leaves returns as they are: the same runs with and without.

`bf16` is `--precision bf16`. `gradient of 4` is the default of CQL and Cal-QL: their penalty is
differentiated at 4 drawn actions instead of all 30. Trains on the datasets of `scores.py` with its
budget and drives the same scenarios. A seed decides batches and networks, so that two runs of a
seed differ in the shortcut alone. Every finished run is a line of a file, so that a stopped
benchmark goes on.

`.venv/bin/python benchmarks/shortcuts.py`, on one core; for `bf16`, one that multiplies bfloat16.
"""

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from offrl_training.algorithms import ALGORITHMS
from offrl_training.config import TrainingConfig
from offrl_training.process import set_up
from offrl_training.trainer import Trainer
from scores import ROOT, SETTINGS, Task, in_si, locomotion, navigation
from scores import Config as Scores
from training import processor

RESULTS = ROOT / "benchmarks" / "results" / "shortcuts.json"
SEEDS = range(5)


@dataclass(frozen=True)
class Shortcut:
    """Settings with and without it, and what is trained: algorithms by dataset."""

    without: dict[str, Any]
    taken: dict[str, Any]
    runs: dict[str, tuple[str, ...]]


SHORTCUTS = {
    "bf16": Shortcut(
        {"precision": "float32"}, {"precision": "bf16"}, {"navigation": ("td3_bc", "iql", "cql")}
    ),
    "gradient of 4": Shortcut(
        {"samples": 10, "gradient_samples": None},
        {"samples": 10, "gradient_samples": 4},
        {
            "navigation": ("cql", "cal_ql"),
            "halfcheetah_medium": ("cql",),
            "halfcheetah_medium_replay": ("cql",),
        },
    ),
}


@dataclass(frozen=True)
class Config:
    """Train with and without shortcuts, and drive."""

    shortcuts: tuple[str, ...] = tuple(SHORTCUTS)
    """Which."""
    data: Path = Path("scores_data")
    """Folder of the datasets and of finished runs; made where it is missing."""


def run(task: Task, algorithm: str, settings: dict[str, Any], seed: int) -> dict[str, float]:
    """Train and drive once; return the normalised mean return and the training's CPU time [s]."""
    budget = Scores()
    kind = ALGORITHMS[algorithm].config_type
    given = {name: budget.hidden for name in kind.model_fields if name.endswith("hidden")}
    given |= {"gamma": task.gamma, **SETTINGS["cql" if algorithm == "cal_ql" else algorithm]}
    training: dict[str, Any] = {"steps": budget.steps, "batch": budget.batch, "seed": seed}
    for name, value in settings.items():
        (given if name in kind.model_fields else training)[name] = value
    trainer = Trainer(
        algorithm,
        kind.model_validate(given),
        TrainingConfig(held_out=0.0, **training),
        task.dataset,
    )
    begun = time.process_time()
    for _ in range(budget.steps):
        trainer.advance()
    seconds = time.process_time() - begun
    returns = task.drive(in_si(trainer.algorithm.policy, trainer.algorithm.normaliser))
    return {"score": task.normalised(returns), "seconds": seconds}


def compare(name: str, config: Config) -> dict[str, Any]:
    """Do the runs of a shortcut that are not done yet; return the cells."""
    path = config.data / "shortcuts.jsonl"
    done: dict[tuple[Any, ...], dict[str, float]] = {}
    for text in path.read_text().splitlines() if path.exists() else []:
        line = json.loads(text)
        done[tuple(line["run"])] = line["found"]
    shortcut, cells = SHORTCUTS[name], {}
    for dataset, algorithms in shortcut.runs.items():
        budget = Scores(data=config.data)
        task = navigation(budget) if dataset == "navigation" else locomotion(budget, dataset)
        for algorithm in algorithms:
            for seed in SEEDS:
                for taken in (False, True):
                    key = (name, dataset, algorithm, taken, seed)
                    if key in done:
                        continue
                    settings = shortcut.taken if taken else shortcut.without
                    done[key] = run(task, algorithm, settings, seed)
                    with path.open("a") as file:
                        file.write(json.dumps({"run": key, "found": done[key]}) + "\n")
                    print(*key, {k: round(v, 1) for k, v in done[key].items()}, flush=True)
            both = [
                [done[name, dataset, algorithm, taken, seed] for seed in SEEDS]
                for taken in (False, True)
            ]
            cells[f"{dataset}, {algorithm}"] = cell(*both)
    return cells


def cell(without: list[dict[str, float]], taken: list[dict[str, float]]) -> dict[str, Any]:
    """Return the scores of both, of their differences by seed, and how much time is saved."""
    before, after = (np.array([each["score"] for each in runs]) for runs in (without, taken))
    ratio = sum(each["seconds"] for each in without) / sum(each["seconds"] for each in taken)
    return {
        "without": spread(before),
        "taken": spread(after),
        "difference": spread(after - before),
        "times as fast": round(ratio, 2),
    }


def spread(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return mean and standard error over seeds."""
    return {
        "mean": round(float(values.mean()), 1),
        "standard_error": round(float(values.std(ddof=1) / len(values) ** 0.5), 1),
        "by seed": [round(float(value), 1) for value in values],
    }


def main(config: Config) -> None:
    """Do what is not done yet; print and keep the figures."""
    set_up(threads=1)
    config.data.mkdir(parents=True, exist_ok=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True)
    for name in config.shortcuts:
        cells = compare(name, config)
        results[name] = {"commit": commit.strip(), "processor": processor(), "cells": cells}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(json.dumps(results[name], indent=1))


if __name__ == "__main__":
    main(tyro.cli(Config))
