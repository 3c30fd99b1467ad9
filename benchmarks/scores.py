"""Returns of six algorithms, ours beside d3rlpy's: same batches, networks, steps and settings.

Makes its data where it is missing: 600 recorded episodes of the simulated robot, converted as in
the demo, and two sets of an online SAC run on HalfCheetah (`locomotion.py`). How d3rlpy's settings
follow from ours, and what differs all the same, is the table in `d3rlpy_peer.py`. Every finished
run is a line of a file, so that a benchmark that was stopped goes on.

`.venv/bin/python benchmarks/scores.py`, on one core. It needs MuJoCo, and d3rlpy, which no resolver
puts beside offrl; where one is missing it says what to install.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from d3rlpy_peer import MATCHES, RANDOM, VERSION, Peer, import_d3rlpy
from locomotion import DATASETS, TASK, Act, drive, make_locomotion, uniform
from numpy.typing import NDArray
from offrl_contract import InputError
from offrl_contract.cli import EXIT_BAD_INPUT
from offrl_data.dataset import Dataset, load_dataset
from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import Dims
from offrl_training.config import TrainingConfig
from offrl_training.sampler import Sampler
from offrl_training.trainer import Trainer
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "scores.json"
LIBRARIES = ("ours", "d3rlpy")
NAVIGATION_EPISODES = 600
SETTINGS: dict[str, dict[str, Any]] = {
    "td3_bc": {"learning_rate": 1e-3},
    "iql": {"learning_rate": 1e-3},
    "cql": {"policy_rate": 3e-4, "critic_rate": 1e-3, "samples": 4, "warm_start": 0.0},
    "awac": {"learning_rate": 1e-3},
    "bcq": {},  # 1e-3 already
    "crr": {"learning_rate": 1e-3},
}
"""Ours that are not the defaults, for both libraries: runs are short, so steps are large; CQL draws
4 actions instead of 10, since it takes half of the time with them, and has no warm start, as in
d3rlpy."""
NAVIGATION_GAMMA = 0.98
"""As in the demo: an episode has 200 ticks at most."""
TEST_SEED = 1_000_000
"""First scenario of the scored episodes; neither recordings nor checkpoints have seen them."""


@dataclass(frozen=True)
class Config:
    """Train every algorithm of both libraries on every dataset, and drive."""

    steps: int = 2_000
    """Updates per run."""
    batch: int = 128
    """Transitions per update."""
    hidden: tuple[int, ...] = (128, 128)
    """Width of each hidden layer, of all networks."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the batches and the networks."""
    more_seeds: tuple[int, ...] = (3, 4, 5, 6, 7)
    """Further seeds for a cell in which ours is then below by more than the pooled standard error:
    of equal algorithms nearly one cell in five is, by chance (t of 4 degrees of freedom)."""
    navigation_drives: int = 20
    """Scored episodes of the simulated robot per run."""
    locomotion_drives: int = 5
    """Scored episodes of HalfCheetah per run."""
    data: Path = Path("scores_data")
    """Folder of datasets and finished runs; made where it is missing."""
    out: Path = RESULTS
    """File of the figures."""

    @property
    def budget(self) -> dict[str, Any]:
        """What runs must share to be compared."""
        names = ("steps", "batch", "hidden", "navigation_drives", "locomotion_drives")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        return found | {"hidden": list(self.hidden), "settings": SETTINGS}


@dataclass(frozen=True)
class Task:
    """A dataset and where its policies drive."""

    dataset: Dataset
    env: str
    drives: int
    gamma: float
    random: float
    """Mean return of uniform actions: 0 on the scale."""
    expert: float
    """100 on the scale."""

    def drive(self, act: Act) -> list[float]:
        """Return the return of each scored episode."""
        seeds = range(TEST_SEED, TEST_SEED + self.drives)
        return [float(e.rewards.sum(dtype=np.float64)) for e in drive(self.env, act, seeds)]

    def normalised(self, returns: Sequence[float] | NDArray[np.float64]) -> float:
        """Return the mean on the scale."""
        return 100.0 * (float(np.mean(returns)) - self.random) / (self.expert - self.random)


def navigation(config: Config) -> Task:
    """Record and convert where that is not done; 100 is the mean logged return at the goal."""
    path = config.data / "navigation.h5"
    if not path.exists():
        offrl, bags = Path(sys.executable).with_name("offrl"), config.data / "bags"
        record = ("record", "--out", bags, "--episodes", NAVIGATION_EPISODES, "--seed", 0)
        convert = ("convert", bags, "--robot", "diffdrive", "--out", path)
        for words in [convert] if bags.exists() else [record, convert]:
            subprocess.run([offrl, *map(str, words)], check=True)
    dataset = load_dataset(path)
    goal = dataset.final_observations[:, dataset.robot.observation_slices["goal"]]
    reached = np.hypot(*goal.T) < 0.3  # the robot file's terminal
    env, drives = "offrl_sim:offrl/DiffDriveNav-v0", config.navigation_drives
    expert = float(dataset.returns()[reached].mean())
    task = Task(dataset, env, drives, NAVIGATION_GAMMA, 0.0, expert)
    return _with_random(config, "navigation", task)


def locomotion(config: Config, name: str) -> Task:
    """Make the data where it is missing; 100 is the best return of the SAC run."""
    scale = make_locomotion(config.data)
    dataset = load_dataset(config.data / f"{name}.h5")
    task = Task(dataset, TASK, config.locomotion_drives, 0.99, 0.0, scale["expert"])
    return _with_random(config, TASK, task)


def _with_random(config: Config, name: str, task: Task) -> Task:
    """Return the task with the mean return of uniform actions, measured once per folder."""
    known = config.data / "random.json"
    values = json.loads(known.read_text()) if known.exists() else {}
    key = f"{name} {task.drives}"
    if key not in values:
        values[key] = float(np.mean(task.drive(uniform(task.dataset.robot))))
        known.write_text(json.dumps(values))
    return Task(**{**vars(task), "random": values[key]})


def tasks(config: Config) -> dict[str, Task]:
    """Return all tasks by name."""
    config.data.mkdir(parents=True, exist_ok=True)
    cheetah = {f"halfcheetah_{name}": locomotion(config, name) for name in DATASETS}
    return {"navigation": navigation(config), **cheetah}


def run(config: Config, task: Task, algorithm: str, library: str, seed: int) -> dict[str, Any]:
    """Train and drive once; return what the line of the run holds."""
    kind = ALGORITHMS[algorithm].config_type
    widths = {name: config.hidden for name in kind.model_fields if name.endswith("hidden")}
    settings = kind.model_validate({**widths, "gamma": task.gamma, **SETTINGS[algorithm]})
    # all episodes are trained on: nothing is exported, so no gate needs any of them
    training = TrainingConfig(steps=config.steps, batch=config.batch, seed=seed, held_out=0.0)
    trainer = Trainer(algorithm, settings, training, task.dataset)
    normaliser, robot = trainer.algorithm.normaliser, task.dataset.robot
    dims = Dims(robot.observation_size, robot.action_size, config.steps)
    sampler = Sampler(trainer.sampler.packed, dims.observation, torch.Generator().manual_seed(seed))
    peer = Peer(algorithm, settings, dims, seed) if library == "d3rlpy" else None
    update: Callable[..., Any] = peer.update if peer else trainer.algorithm.update
    begun = time.process_time()
    for _ in range(config.steps):
        update(sampler.sample(config.batch))
    seconds = time.process_time() - begun
    policy = peer.act if peer else trainer.algorithm.policy
    returns = task.drive(in_si(policy, normaliser))
    line = {"returns": [round(value, 3) for value in returns], "score": task.normalised(returns)}
    if peer and algorithm in RANDOM:
        line["as shipped"] = task.normalised(task.drive(in_si(peer.act_as_shipped, normaliser)))
    return line | {"training_cpu_seconds": round(seconds, 1)}


def in_si(policy: Callable[[Tensor], Tensor], normaliser: Any) -> Act:
    """Return a policy from SI units to SI units, for either library."""

    @torch.no_grad()
    def act(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        shown = normaliser.observation(torch.from_numpy(observations))
        action: NDArray[np.float32] = normaliser.action_to_si(policy(shown)).numpy()
        return action

    return act


class Runs:
    """The finished runs of one budget, one JSON line each; lines of another budget stay apart."""

    def __init__(self, config: Config) -> None:
        """Read what is there; a line that was cut off is done again."""
        self.path = config.data / "runs.jsonl"
        self.budget = config.budget
        self.lines: dict[tuple[Any, ...], dict[str, Any]] = {}
        for text in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if line.pop("budget") == self.budget:
                self.lines[self._key(line)] = line

    def add(self, line: dict[str, Any]) -> None:
        """Keep a run."""
        self.lines[self._key(line)] = line
        with self.path.open("a") as file:
            file.write(json.dumps({**line, "budget": self.budget}) + "\n")

    def of(
        self, dataset: str, algorithm: str, library: str, seeds: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Return the finished runs of one library in a cell."""
        keys = [(dataset, algorithm, library, seed) for seed in seeds]
        return [self.lines[key] for key in keys if key in self.lines]

    @staticmethod
    def _key(line: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(line[name] for name in ("dataset", "algorithm", "library", "seed"))


def compare(
    runs: Runs, dataset: str, algorithm: str, seeds: Sequence[int]
) -> dict[str, Any] | None:
    """Return mean and standard error over seeds of both libraries, and whether ours is below.

    None until both have two seeds.
    """
    found: dict[str, Any] = {}
    for library in LIBRARIES:
        done = runs.of(dataset, algorithm, library, seeds)
        if len(done) < 2:
            return None
        scores = np.array([each["score"] for each in done])
        error = float(scores.std(ddof=1) / len(scores) ** 0.5)
        found[library] = {
            "mean": round(float(scores.mean()), 1),
            "standard_error": round(error, 1),
            "scores": [round(score, 1) for score in scores.tolist()],
            "training_cpu_seconds": round(np.mean([e["training_cpu_seconds"] for e in done]), 1),
        }
        shipped = [each["as shipped"] for each in done if "as shipped" in each]
        if shipped:
            found[library]["mean of its own random predict"] = round(float(np.mean(shipped)), 1)
    ours, theirs = found["ours"], found["d3rlpy"]
    pooled = float(np.hypot(ours["standard_error"], theirs["standard_error"]))
    below = ours["mean"] < theirs["mean"] - pooled
    return found | {
        "difference": round(ours["mean"] - theirs["mean"], 1),
        "pooled_standard_error": round(pooled, 1),
        "ours_below_by_more_than_it": bool(below),
    }


def cell(config: Config, runs: Runs, dataset: str, algorithm: str) -> dict[str, Any] | None:
    """Return the comparison over the first seeds, and over all where there are further ones."""
    found = compare(runs, dataset, algorithm, config.seeds)
    if found and found["ours_below_by_more_than_it"]:
        found["all_seeds"] = compare(runs, dataset, algorithm, (*config.seeds, *config.more_seeds))
    return found


def figures(config: Config, found: dict[str, Task], runs: Runs) -> dict[str, Any]:
    """Return all cells, and what they were made with."""
    commits = sorted({line["commit"] for line in runs.lines.values()})
    about = {
        name: {
            "transitions": len(task.dataset),
            "episodes": len(task.dataset.lengths),
            "digest": task.dataset.digest,
            "random (0)": round(task.random, 2),
            "expert (100)": round(task.expert, 2),
            "score of the data": round(task.normalised(task.dataset.returns()), 1),
        }
        for name, task in found.items()
    }
    cells = {
        name: {
            algorithm: found_cell
            for algorithm in MATCHES
            if (found_cell := cell(config, runs, name, algorithm))
        }
        for name in found
    }
    sac = config.data / "locomotion.json"
    return {
        "commit": ", ".join(commits),
        "d3rlpy": VERSION,
        "budget": config.budget
        | {"seeds": config.seeds, "more_seeds": config.more_seeds, "threads": 1},
        "pooled_standard_error": "root of the sum of both libraries' squared standard errors",
        "datasets": about,
        "sac_run": json.loads(sac.read_text()),
        "differs": {algorithm: match.differs for algorithm, match in MATCHES.items()},
        "cells": cells,
    }


def pending(
    config: Config, names: Sequence[str], runs: Runs
) -> Iterator[tuple[str, str, str, int]]:
    """Yield (dataset, algorithm, library, seed) of what is not done, seed by seed."""
    for seed, name, algorithm, library in product(config.seeds, names, MATCHES, LIBRARIES):
        if (name, algorithm, library, seed) not in runs.lines:
            yield name, algorithm, library, seed
    for seed, name, algorithm, library in product(config.more_seeds, names, MATCHES, LIBRARIES):
        first = compare(runs, name, algorithm, config.seeds)
        below = first is not None and first["ours_below_by_more_than_it"]
        if below and (name, algorithm, library, seed) not in runs.lines:
            yield name, algorithm, library, seed


def main(config: Config) -> None:
    """Do what is not done yet; print and keep the figures. Raises InputError."""
    import_d3rlpy()
    torch.set_num_threads(1)
    found = tasks(config)
    runs = Runs(config)
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True)
    for name, algorithm, library, seed in pending(config, list(found), runs):
        line = run(config, found[name], algorithm, library, seed)
        where = {"dataset": name, "algorithm": algorithm, "library": library, "seed": seed}
        runs.add({**where, **line, "commit": commit.strip()})
        print(json.dumps({**where, "score": round(line["score"], 1)}), flush=True)
        save(config, found, runs)
    save(config, found, runs)
    table(figures(config, found, runs))


def save(config: Config, found: dict[str, Task], runs: Runs) -> None:
    """Write the figures of what is done."""
    config.out.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(figures(config, found, runs), indent=1, ensure_ascii=False)
    config.out.write_text(content + "\n")


def table(content: dict[str, Any]) -> None:
    """Print a line per cell, and a second one where there are further seeds."""
    for name, algorithms in content["cells"].items():
        for algorithm, first in algorithms.items():
            for each in filter(None, (first, first.get("all_seeds"))):
                values = [
                    f"{each[b]['mean']:6.1f} ± {each[b]['standard_error']:4.1f}" for b in LIBRARIES
                ]
                flag = "  BELOW" if each["ours_below_by_more_than_it"] else ""
                seeds = f"{len(each['ours']['scores'])} seeds"
                print(
                    f"{name:25} {algorithm:6} {seeds}  ours {values[0]}  d3rlpy {values[1]}{flag}"
                )


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
