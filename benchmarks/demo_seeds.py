"""The demo with several seeds: what the policy gains over who was logged, and what the gate does.

A seed draws its own recordings and its own networks; the scenarios of the drives are the same for
all. Run it with `.venv/bin/python benchmarks/demo_seeds.py`: about 20 minutes a seed on 2 cores.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "demo_seeds.json"


@dataclass(frozen=True)
class Config:
    """Run the demo with several seeds."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One whole demo each."""
    drives: int = 40
    """Undisturbed drives per seed."""
    disturbed: int = 10
    """Drives per seed with each kind of disturbance."""
    speed: float = 1.0
    """Simulated seconds per second while driving."""


def run_demo(config: Config, seed: int) -> dict[str, Any]:
    """Run the demo; return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        options = {"seed": seed, "drives": config.drives, "disturbed": config.disturbed}
        words = [f"--{name}={value}" for name, value in {**options, "speed": config.speed}.items()]
        command = [sys.executable, "sim/demo.py", "--out", str(out), *words]
        subprocess.run(command, check=True, cwd=ROOT)
        figures: dict[str, Any] = json.loads((out / "results.json").read_text())
    print(json.dumps({"seed": seed, **figures}))  # not lost where a later seed fails
    return figures


def mean_and_spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Put the figures of all seeds together."""
    drivers = ("behaviour", "bc", "policy")
    returns = {name: [float(np.mean(run[name]["returns"])) for run in runs] for name in drivers}
    kinds = runs[0]["disturbed_episodes"]
    stops = {
        k: [s for run in runs for s in run["seconds_to_fallback_and_standing"][k]] for k in kinds
    }
    return {
        "return, mean ± sd over seeds": {n: mean_and_spread(v) for n, v in returns.items()},
        "return per seed": {n: [round(v, 3) for v in values] for n, values in returns.items()},
        "goal reached": {n: f"{_sum(runs, n, 'successes')} of {_drives(runs)}" for n in drivers},
        "collided": {n: f"{_sum(runs, n, 'collisions')} of {_drives(runs)}" for n in drivers},
        "false stops": f"{sum(run['false_stops'] for run in runs)} of {_drives(runs)}",
        "false stops per seed": [run["false_stops"] for run in runs],
        "false stops, 95 %": _interval(sum(run["false_stops"] for run in runs), _drives(runs)),
        "stopped": {
            k: f"{len(stops[k])} of {sum(run['disturbed_episodes'][k] for run in runs)}"
            for k in kinds
        },
        "seconds to FALLBACK, median and largest": {
            k: [round(float(f(np.array(stops[k])[:, 0])), 2) for f in (np.median, np.max)]
            for k in kinds
        },
        "seconds to standing still, median and largest": {
            k: [round(float(f(np.array(stops[k])[:, 1])), 2) for f in (np.median, np.max)]
            for k in kinds
        },
        "seconds per demo": [run["seconds"] for run in runs],
    }


def _sum(runs: list[dict[str, Any]], driver: str, key: str) -> int:
    return sum(run[driver][key] for run in runs)


def _drives(runs: list[dict[str, Any]]) -> int:
    return sum(run["nominal_episodes"] for run in runs)


def _interval(events: int, count: int) -> list[float]:
    """Return the Clopper-Pearson interval of a share."""
    low, high = binomtest(events, count).proportion_ci(0.95, "exact")
    return [round(float(low), 3), round(float(high), 3)]


def main(config: Config) -> None:
    """Run all seeds; print and keep the figures."""
    runs = [run_demo(config, seed) for seed in config.seeds]
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True)
    figures = {"commit": commit.strip(), "speed": config.speed, **summary(runs)}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main(tyro.cli(Config))
