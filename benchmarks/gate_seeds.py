"""The gate of several policies: what it prevents hangs on which bumps a policy would have had.

Training and export with other seeds on the drives of benchmarks/gate.py; then the strongest of each
of its changes, and undisturbed drives.

    .venv/bin/python benchmarks/gate_seeds.py

It continues where it was stopped; after a change of training, export or node, remove its results
and the policies.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from finetune import offrl
from gate import ALPHA, POLICY_SEED, ROOT, TASK, TRAINING, drive, prepare
from gate_shifts import Shift, Shifts
from gate_summary import share
from offrl_policy.policy_file import Policy
from offrl_sim.env import TaskEnv
from offrl_training.files import write_atomically

RESULTS = ROOT / "benchmarks" / "results" / "gate_seeds.json"


@dataclass(frozen=True)
class Config:
    """Judge the gates of several policies."""

    work: Path = ROOT / "gate_data"
    """Folder of benchmarks/gate.py's recordings; policies are written beside them."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training."""
    scenarios: int = 40
    """Of each shift."""
    nominal: int = 100
    """Drives of each policy in the world that it knows."""
    processes: int = 2
    """Policies at a time."""


def judge(folder: Path, seed: int, scenarios: int, nominal: int) -> dict[str, Any]:
    """Train and export a policy, unless it is done; count its bumps and those behind its gate."""
    torch.set_num_threads(1)
    run, file = f"run_{seed}", f"policy_{seed}.onnx"
    if not (folder / file).exists():
        offrl(folder, run, f"train iql data.h5 --out {run} --seed {seed} {TRAINING} --resume")
        offrl(folder, run, f"export {run} --data data.h5 --out {file} --alpha {ALPHA}")
    policy = Policy(folder / file)
    shifts = {
        name: bumps(policy, shift, shift.strengths[-1], scenarios)
        for name, shift in Shifts.ALL.items()
    }
    return {"seed": seed, "shifts": shifts, "nominal": undisturbed(policy, nominal)}


def bumps(policy: Policy, shift: Shift, strength: float, scenarios: int) -> dict[str, int]:
    """Count the bumps of drives without a gate, and those of them that it prevents."""
    env = _altered(shift, strength)
    found = {"bumps": 0, "prevented": 0}
    for scenario in range(POLICY_SEED, POLICY_SEED + scenarios):
        if drive(env, policy, scenario, gated=False).bump is not None:
            found["bumps"] += 1
            found["prevented"] += drive(env, policy, scenario, gated=True).bump is None
    env.close()
    return found


def undisturbed(policy: Policy, count: int) -> dict[str, int]:
    """Count what becomes of normal drives behind the gate."""
    env = _altered(Shifts.NOMINAL, 0.0)
    drives = [
        drive(env, policy, scenario, gated=True)
        for scenario in range(POLICY_SEED, POLICY_SEED + count)
    ]
    env.close()
    return {
        "drives": count,
        "stopped": sum(each.stopped is not None for each in drives),
        "braked": sum(each.braked > 0 for each in drives),
        "bumps": sum(each.bump is not None for each in drives),
        "goals": sum(each.success for each in drives),
    }


def _altered(shift: Shift, strength: float) -> TaskEnv:
    env = TaskEnv(TASK)
    env.simulation.close()
    env.simulation = shift.build(env.robot, strength)
    return env


def summary(policies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the share prevented by shift, by policy and of all, and the false stops."""

    def prevented(found: Sequence[dict[str, int]]) -> dict[str, Any]:
        return share(sum(each["prevented"] for each in found), sum(each["bumps"] for each in found))

    by_policy = {str(each["seed"]): list(each["shifts"].values()) for each in policies}
    normal = [each["nominal"] for each in policies]
    return {
        "prevented": {
            name: prevented([each["shifts"][name] for each in policies]) for name in Shifts.ALL
        },
        "prevented by seed": {seed: prevented(found) for seed, found in by_policy.items()},
        "prevented of all": prevented([each for found in by_policy.values() for each in found]),
        "normal drives stopped": share(
            sum(each["stopped"] for each in normal), sum(each["drives"] for each in normal)
        ),
    }


def main(config: Config) -> None:
    """Judge the policies that have no entry, then sum up."""
    prepare(config.work)
    found = json.loads(RESULTS.read_text())["policies"] if RESULTS.exists() else []
    waiting = sorted(set(config.seeds) - {each["seed"] for each in found})
    with ProcessPoolExecutor(config.processes) as pool:
        jobs = [
            pool.submit(judge, config.work, seed, config.scenarios, config.nominal)
            for seed in waiting
        ]
        for job in jobs:
            found.append(job.result())
            known = {"policies": found, "summary": summary(found)}
            write_atomically(RESULTS, (json.dumps(known, indent=1) + "\n").encode())
            print(json.dumps(known["summary"]["prevented by seed"]), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
