"""The safety gate against what no log has shown, in the simulator and on real recordings.

A policy is trained on DiffDriveNav, with a quarter of the drives held out for the gate. Then it
drives altered robots in altered worlds (`gate_shifts.py`), each scenario once with thresholds that
nothing reaches and no limit on missing readings, and once behind its gate and its checks, by the
node's own controller. Every detector judges the former, so that all see the same. A bump counts
where the robot drove; one that walks into a robot that stands does not.

    .venv/bin/python benchmarks/gate.py --bags FOLDER

It continues where it was stopped; the real recordings are left out without their folder.
"""

import copy
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from finetune import offrl
from gate_detectors import Detector, Vectors, detectors
from gate_shifts import Shift, Shifts
from gate_summary import summary
from numpy.typing import NDArray
from offrl_contract import load_robot
from offrl_contract.yaml_text import to_yaml
from offrl_data.dataset import Dataset, load_dataset
from offrl_export.policy import REFERENCE_SHARE
from offrl_policy.controller import Controller, Settings
from offrl_policy.gate import Gate, State
from offrl_policy.policy_file import Policy
from offrl_sim.env import TaskEnv
from offrl_training.files import write_atomically
from offrl_training.run import load_run

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gate.json"
TASK = "DiffDriveNav"
ALPHA = 0.05
EPISODES, OTHERS = 600, 150
OTHER_SEED, POLICY_SEED = 500_000, 900_000
TRAINING = "--steps 20000 --hidden 128 128 --held-out 0.25 --learning-rate 0.001"
REAL = ("neato_drive_square", "neato_obstacle_avoider", "neato_person_follower")
MOVING = 0.05
"""Slowest speed at which a bump counts [m/s]."""
STANDING = 10
"""Ticks behind a latched gate after which an episode is over."""


@dataclass(frozen=True)
class Config:
    """Judge the gate."""

    work: Path = ROOT / "gate_data"
    """Folder of recordings, the run and the policy."""
    bags: Path | None = None
    """Folder of real recordings."""
    scenarios: int = 40
    """Of each shift at each strength."""
    nominal: int = 100
    """Drives of the policy in the world that it knows."""
    processes: int = 2
    """Units at a time."""


@dataclass(frozen=True)
class Drive:
    """One episode."""

    observations: Vectors
    """(T, o), one a tick."""
    commands: Vectors
    """(T, a) in force after each."""
    bump: int | None
    """Tick during which the robot drove into something."""
    stopped: int | None
    """Tick at which the gate fell back."""
    halted: int | None
    """Tick, but for the first, at which a check other than `collision` stopped the robot."""
    braked: int
    """Ticks at which `collision` did."""
    success: bool


def prepare(folder: Path) -> None:
    """Record, convert, train, export and build the detectors, as far as it is not done."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, episodes, seed in (("data", EPISODES, 0), ("other", OTHERS, OTHER_SEED)):
        if not (folder / f"{name}.h5").exists():
            bags = f"{name}_bags"
            offrl(folder, name, f"record --out {bags} --episodes {episodes} --seed {seed}")
            offrl(folder, name, f"convert {bags} --robot diffdrive --out {name}.h5")
    if not (folder / "policy.onnx").exists():
        offrl(folder, "train", f"train iql data.h5 --out run {TRAINING} --resume")
        offrl(folder, "export", f"export run --data data.h5 --out policy.onnx --alpha {ALPHA}")


def build(folder: Path) -> dict[str, Detector]:
    """Build all detectors."""
    policy, run = Policy(folder / "policy.onnx"), load_run(folder / "run")
    dataset = load_dataset(folder / "data.h5")
    reference = logged(dataset, run.train_episodes[::REFERENCE_SHARE])
    held_out = logged(dataset, run.held_out_episodes)
    return detectors(policy, run, dataset, reference, held_out, ALPHA)


def logged(dataset: Dataset, episodes: NDArray[np.int64]) -> list[tuple[Vectors, Vectors]]:
    """Return observations (T, o) and commands (T, a) of some episodes, as export sees them.

    Each has its final observation, after which the last command is still in force.
    """
    found = []
    for episode in episodes.tolist():
        span = slice(dataset.starts[episode], dataset.starts[episode] + dataset.lengths[episode])
        last, actions = dataset.final_observations[episode : episode + 1], dataset.actions[span]
        seen = np.concatenate([dataset.observations[span], last])
        found.append((seen, np.concatenate([actions, actions[-1:]])))
    return found


class Judge:
    """Policy and detectors of a process."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.policy = Policy(folder / "policy.onnx")
        self.detectors = build(folder)

    def unit(self, shift: Shift, strength: float, scenarios: range) -> dict[str, Any]:
        """Drive every scenario twice; return what each detector says, and what became of it."""
        env = TaskEnv(TASK)
        env.simulation.close()
        env.simulation = shift.build(env.robot, strength)
        rows = []
        for scenario in scenarios:
            free = drive(env, self.policy, scenario, gated=False)
            gated = drive(env, self.policy, scenario, gated=True)
            outcome = {"bump": free.bump, "success": free.success}
            behind = {
                "bump": gated.bump,
                "stopped": gated.stopped,
                "halted": gated.halted,
                "braked": gated.braked,
                "success": gated.success,
            }
            rows.append(
                self.verdicts(free.observations, free.commands) | outcome | {"gated": behind}
            )
        env.close()
        return columns(rows)

    def verdicts(self, seen: Vectors, commands: Vectors) -> dict[str, Any]:
        """Return the first alarm [tick] and the highest level by detector."""
        levels = {name: each.levels(seen, commands) for name, each in self.detectors.items()}
        return {
            "ticks": len(seen),
            "alarm": {name: _first(each >= 1.0) for name, each in levels.items()},
            "level": {name: round(float(each.max()), 3) for name, each in levels.items()},
        }

    def log(self, data: Path, episodes: NDArray[np.int64] | None = None) -> dict[str, Any]:
        """Return what each detector says to logged episodes."""
        dataset = load_dataset(data)
        chosen = np.arange(len(dataset.lengths)) if episodes is None else episodes
        return columns([self.verdicts(*each) for each in logged(dataset, chosen)])


def drive(env: TaskEnv, policy: Policy, scenario: int, *, gated: bool) -> Drive:
    """Drive one scenario with the node's controller, by thresholds that count or by none."""
    settings = Settings()
    if not gated:
        policy = copy.copy(policy)
        policy.robot = policy.robot.without_checks()
    controller = Controller(policy, settings)
    if not gated:
        scores = tuple(
            each.model_copy(update={"threshold": 1e18, "cusum_threshold": 1e18})
            for each in policy.gate.scores
        )
        controller.gate = Gate(policy.gate.model_copy(update={"scores": scores}), settings.gate)
    env.listener = lambda each: controller.push(each.topic, each.stamp, each.message)
    env.reset(seed=scenario)
    seen: list[NDArray[np.float32]] = []
    commands: list[NDArray[np.float32]] = []
    bump = stopped = halted = None
    braked = 0
    done = success = False
    while not done and (stopped is None or len(seen) < stopped + STANDING):
        tick = len(seen)
        decision = controller.tick(env.tick)
        seen.append(decision.observation.vector)
        if decision.state is State.FALLBACK and stopped is None:
            stopped = tick
        braking = decision.state is State.STOP and controller.gate.state is not State.STOP
        braked += braking
        if decision.state is State.STOP and tick and not braking and halted is None:
            halted = tick
        moving = abs(env.simulation.body.forward) > MOVING
        commands.append(decision.command.astype(np.float32))
        _, _, terminal, timeout, info = env.step(commands[-1])
        if info["collided"] and moving:
            bump = tick
        done, success = terminal or timeout, info["success"]
    return Drive(np.array(seen), np.array(commands), bump, stopped, halted, braked, success)


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Turn rows of equal, perhaps nested, keys into lists by key."""
    return {
        key: columns([row[key] for row in rows])
        if isinstance(value, Mapping)
        else [row[key] for row in rows]
        for key, value in rows[0].items()
    }


def _first(where: NDArray[np.bool_]) -> int | None:
    return int(where.argmax()) if where.any() else None


def strangers(folder: Path, bags: Path) -> Iterator[tuple[str, Path]]:
    """Convert real recordings of another robot to observations as ours would see them.

    They have a lidar and odometry, and no goal: it gets that of the simulated drives, tick by tick.
    """
    robot = load_robot("diffdrive").without_checks()
    content = {
        "robot": "stranger",
        "rate": robot.rate,
        "observation": [
            term.model_dump(mode="json", exclude_defaults=True)
            for term in robot.observation
            if term.topic != "/goal"
        ],
        "action": load_robot("neato").model_dump(mode="json", exclude_defaults=True)["action"],
        "reward": "0.0 * next_twist_0",
        "episode": {"gap": 1.0, "min_length": 50},
    }
    (folder / "stranger.yaml").write_text(to_yaml(content))
    for name in REAL:
        if not (folder / f"{name}.h5").exists():
            words = f"convert {bags / name} --robot stranger.yaml --msgs {bags / 'msg'}"
            offrl(folder, name, f"{words} --out {name}.h5")
        yield name, folder / f"{name}.h5"


_judge: Judge


def _begin(folder: Path) -> None:
    global _judge
    _judge = Judge(folder)


def _unit(name: str, strength: float, scenarios: range) -> dict[str, Any]:
    shift = Shifts.NOMINAL if name == "nominal" else Shifts.ALL[name]
    return _judge.unit(shift, strength, scenarios)


def stranger_verdicts(judge: Judge, data: Path, goals: Vectors) -> dict[str, Any]:
    """Return what each detector says to windows of 10 s of a recording of another robot."""
    dataset = load_dataset(data)
    rows = []
    for seen, commands in logged(dataset, np.arange(len(dataset.lengths))):
        for begin in range(0, len(seen) - 99, 100):
            window = slice(begin, begin + 100)
            whole = np.concatenate([seen[window], goals[window]], axis=1)
            rows.append(judge.verdicts(whole, commands[window]))
    return columns(rows)


def main(config: Config) -> None:
    """Run all units that have no entry, then the summary."""
    folder = config.work
    prepare(folder)
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if known.get("policy") != Policy(folder / "policy.onnx").checksum:
        known = {}  # drives of another policy
    units = known.setdefault("units", {})

    judge = Judge(folder)

    def keep(name: str, entry: dict[str, Any]) -> None:
        units[name] = entry
        known["summary"] = summary(units)
        known["policy"] = judge.policy.checksum
        known["commit"] = subprocess.check_output(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True
        ).strip()
        write_atomically(RESULTS, (json.dumps(known, separators=(",", ":")) + "\n").encode())
        print(name, json.dumps(known["summary"].get(name, {})), flush=True)

    if "drivers, held out" not in units:
        keep(
            "drivers, held out",
            judge.log(folder / "data.h5", load_run(folder / "run").held_out_episodes),
        )
    if "drivers, another seed" not in units:
        keep("drivers, another seed", judge.log(folder / "other.h5"))
    if config.bags:
        goals = load_dataset(folder / "other.h5").observations[:, -2:]
        for name, data in strangers(folder, config.bags):
            if f"other robot: {name}" not in units:
                keep(f"other robot: {name}", stranger_verdicts(judge, data, goals))
    waiting = [("nominal", 0.0, config.nominal)] if "nominal" not in units else []
    for name, shift in Shifts.ALL.items():
        for strength in shift.strengths:
            if f"{name} {strength:g}" not in units:
                waiting.append((name, strength, config.scenarios))
    with ProcessPoolExecutor(config.processes, initializer=_begin, initargs=(folder,)) as pool:
        jobs = [
            (
                name,
                strength,
                pool.submit(_unit, name, strength, range(POLICY_SEED, POLICY_SEED + n)),
            )
            for name, strength, n in waiting
        ]
        for name, strength, job in jobs:
            keep(name if name == "nominal" else f"{name} {strength:g}", job.result())


if __name__ == "__main__":
    main(tyro.cli(Config))
