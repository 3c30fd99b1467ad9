"""Off-policy evaluation against the truth: what policies earn by a log, and what by driving.

Records and converts a log of DiffDriveNav as the demo does, trains policies from good to bad on it,
has Fitted Q Evaluation judge them from the log alone, and then drives them in the simulator, on
scenarios that nobody has seen. Both are discounted returns from an episode's beginning; a drive
ends where its time is up, the estimate goes on. A seed draws its own log, networks and bootstrap
samples; the scenarios of the drives are the same for all.

Run it with `.venv/bin/python benchmarks/evaluate.py`. Seeds in the results are not run anew.
"""

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from offrl_data.dataset import load_dataset
from offrl_sim.env import TaskEnv
from offrl_sim.evaluate import rollout, rollout_behaviour
from offrl_training.evaluation.config import EvaluationConfig
from offrl_training.evaluation.estimate import estimate
from offrl_training.run import load_run
from scipy.stats import spearmanr

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "evaluate.json"
GAMMA = 0.98
COMMON = ("--hidden", "128", "128", "--learning-rate", "1e-3")
POLICIES = {
    "bc": ("bc", "--steps", "4000"),
    "bc, 100 steps": ("bc", "--steps", "100"),
    "td3": ("td3", "--steps", "4000", "--gamma", "0.98"),
    "td3_bc": ("td3_bc", "--steps", "4000", "--gamma", "0.98"),
    "iql": ("iql", "--steps", "8000", "--gamma", "0.98"),
    "iql, 1000 steps": ("iql", "--steps", "1000", "--gamma", "0.98"),
    "awac": ("awac", "--steps", "4000", "--gamma", "0.98"),
}
TEST_SEED = 1_000_000
"""First scenario of the drives; recordings stay far below."""


@dataclass(frozen=True)
class Config:
    """Compare estimates with drives."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One log, and one run of each policy, each."""
    episodes: int = 600
    """Episodes of a log."""
    drives: int = 100
    """Drives of each policy."""
    steps: int = 5000
    """Updates of the estimate's critics."""


def offrl(*words: object) -> None:
    """Run a command as a user does."""
    command = [str(Path(sys.executable).parent / "offrl"), *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def drive(run: Path | None, drives: int) -> list[float]:
    """Return the discounted return of each drive, of a policy or of the driver who is logged."""
    torch.set_num_threads(1)
    env = TaskEnv("DiffDriveNav")
    if run is None:
        results = rollout_behaviour(env, drives, TEST_SEED)
    else:
        algorithm = load_run(run).algorithm

        def act(observation: Any) -> Any:
            with torch.no_grad():
                return algorithm.act(torch.from_numpy(observation[None]))[0].numpy()

        results = rollout(env, act, drives, TEST_SEED)
    return [float(GAMMA ** np.arange(result.length) @ result.rewards) for result in results]


def one_seed(config: Config, seed: int, folder: Path) -> dict[str, Any]:
    """Record, train, estimate, drive."""
    half, first = config.episodes // 2, 10_000 * seed
    for part, start in (("a", first), ("b", first + half)):
        offrl("record", "--out", folder / part, "--episodes", half, "--seed", start)
    data = folder / "drive.h5"
    offrl("convert", folder / "a", folder / "b", "--robot", "diffdrive", "--out", data)
    runs = {name: folder / f"run_{index}" for index, name in enumerate(POLICIES)}
    for name, (algorithm, *options) in POLICIES.items():
        out = ("--out", runs[name], "--seed", seed)
        offrl("train", algorithm, data, *out, *COMMON, *options)

    acts = {name: load_run(run).algorithm.act for name, run in runs.items()}
    settings = EvaluationConfig(gamma=GAMMA, steps=config.steps, seed=seed)
    found = estimate(load_dataset(data), acts, settings)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        futures = {n: pool.submit(drive, run, config.drives) for n, run in runs.items()}
        futures["driver"] = pool.submit(drive, None, config.drives)
        driven = {name: np.array(future.result()) for name, future in futures.items()}
    estimated = {**found.values, "driver": found.driver}
    return {
        name: {
            "estimated": asdict(estimated[name]),
            "driven": float(returns.mean()),
            "standard error": float(returns.std(ddof=1) / len(returns) ** 0.5),
        }
        for name, returns in driven.items()
    } | {"earned in the log": asdict(found.earned)}


def summary(seeds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Put the seeds together: error, order, and what choosing by the estimate costs."""
    errors, inside = [], 0
    order: dict[str, list[float]] = {"low": [], "mean": []}
    regret: dict[str, list[float]] = {"low": [], "mean": []}
    for found in seeds.values():
        truth = np.array([found[name]["driven"] for name in POLICIES])
        for by in order:
            guess = np.array([found[name]["estimated"][by] for name in POLICIES])
            order[by].append(float(spearmanr(guess, truth).statistic))
            regret[by].append(float(truth.max() - truth[guess.argmax()]))
        errors.append(np.abs(guess - truth))
        inside += sum(
            found[name]["estimated"]["low"] - 1.96 * found[name]["standard error"]
            <= found[name]["driven"]
            <= found[name]["estimated"]["high"] + 1.96 * found[name]["standard error"]
            for name in POLICIES
        )
    return {
        "median absolute error": float(np.median(np.concatenate(errors))),
        "rank correlation by the lower end, by the mean": order,
        "regret of the first by the lower end, by the mean": regret,
        "in the interval": f"{inside} of {len(seeds) * len(POLICIES)}",
    }


def main() -> None:
    """Run the seeds that are missing, and write the results."""
    config = tyro.cli(Config)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"seeds": {}}
    for seed in config.seeds:
        if str(seed) not in results["seeds"]:
            with tempfile.TemporaryDirectory() as folder:
                results["seeds"][str(seed)] = one_seed(config, seed, Path(folder))
        commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT)
        results |= {"commit": commit.decode().strip(), "config": asdict(config)}
        results["summary"] = summary(results["seeds"])
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["summary"], indent=1))


if __name__ == "__main__":
    main()
