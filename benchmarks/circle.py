"""The whole circle: a policy from logs, finetuned under a shift, on the node, before and after.

record -> convert -> Cal-QL offline -> finetune in the shifted simulator -> export -> the policy
node drives the shifted simulator over DDS, behind its gate, with the offline policy and with the
finetuned one, on the same scenarios. What is normal for the finetuned one is told once by the log
that it was trained on, and once by one of the shifted car (`offrl export --gate-data`). Data and
runs are those of benchmarks/finetune.py, made here where they are not there yet:
`.venv/bin/python benchmarks/circle.py`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import tyro
from finetune import BIN, EPISODES, ROOT, STEPS, offrl, prepare, train_offline, unit
from offrl_training.files import write_atomically

sys.path += [str(ROOT / "sim"), str(ROOT / "tests")]
from operator_node import Drive, Operator, operator
from ros_interfaces import ACKERMANN_MSGS, provide

RESULTS = ROOT / "benchmarks" / "results" / "circle.json"
TASK = "RacecarTrack"
SCENARIO = 4_000_000
"""First scenario of the drives; neither learning nor evaluation has seen it."""

SHIFTED_SEED = 1_000_000
"""First scenario of the shifted car's log."""
ALPHA = "--alpha 0.1"  # 16 held-out episodes allow no less than 1 in 17


@dataclass(frozen=True)
class Config:
    """Drive the shifted car over DDS before and after finetuning."""

    drives: int = 20
    """Drives with each policy."""
    seed: int = 0
    """Seed of the runs."""
    speed: float = 1.0
    """Simulated seconds per second; less on a busy machine."""
    work: Path = ROOT / "finetune_data"
    """Folder of recordings and runs."""


@contextmanager
def node_and_car(folder: Path, policy: str, speed: float) -> Iterator[Operator]:
    """Start the policy node and the shifted simulator beside an operator; end all of them."""
    settings = {
        "task": TASK,
        "robot": folder / "robot.yaml",
        "profile": folder / "shift.yaml",
        "seed": SCENARIO,
        "real_time_factor": speed,
    }
    words = [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
    started: list[subprocess.Popen[bytes]] = []
    with (folder / "logs" / f"{policy}.log").open("w") as log, operator() as watching:
        try:
            for command in (
                [BIN / "offrl", "serve", f"{policy}.onnx", "--use-sim-time"],
                [sys.executable, "-m", "offrl_sim.bridge", "--ros-args", *words],
            ):
                started.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log))
                watching.wait_for_policy()
            yield watching
        finally:
            for process in started:
                process.send_signal(signal.SIGINT)
            for process in started:
                process.wait(20)


def shifted_log(folder: Path) -> None:
    """Record and convert, unless it is done, a log of the shifted car, by drivers as before."""
    if (folder / "shifted.h5").exists():
        return
    shutil.rmtree(folder / "shifted_bags", ignore_errors=True)
    words = f"record --task {TASK} --robot robot.yaml --profile shift.yaml --out shifted_bags"
    words += f" --episodes {EPISODES[TASK]} --seed {SHIFTED_SEED}"
    offrl(folder, "shifted_record", words)
    offrl(folder, "shifted_convert", "convert shifted_bags --robot robot.yaml --out shifted.h5")


def figures(drives: list[Drive]) -> dict[str, Any]:
    """Return what came of some drives."""
    returns = [drive.report["return"] for drive in drives]
    return {
        "drives": len(drives),
        "return, mean": round(float(np.mean(returns)), 2),
        "standard error": round(float(np.std(returns) / len(returns) ** 0.5), 2),
        "drove to the end": sum(drive.report["success"] for drive in drives),
        "into the wall": sum(drive.report["collided"] for drive in drives),
        "stopped by the gate": sum(drive.falls_back for drive in drives),
        "returns": returns,
    }


def main(config: Config) -> None:
    """Make the policies, drive with each, keep the figures."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    folder = config.work / TASK
    facts = prepare(TASK, folder)
    train_offline(folder, config.seed, "cal_ql")
    unit(TASK, folder, config.seed, "Cal-QL")
    shifted_log(folder)
    before, after = f"{config.seed}/cal_ql", f"{config.seed}/Cal-QL"
    runs = {"before": before, "after": after, "after, gate of the shifted car": after}
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True)
    found: dict[str, Any] = {"commit": commit.strip(), "task": TASK, "steps": STEPS}
    found |= {name: facts[name] for name in ("transitions", "shift")}
    with TemporaryDirectory() as built, pytest.MonkeyPatch.context() as patch:
        provide("ackermann_msgs", ACKERMANN_MSGS, Path(built), patch)  # PyPI has none
        for number, (name, run) in enumerate(runs.items()):
            file = f"circle_{number}"
            words = f"export {run} --data data.h5 --out {file}.onnx {ALPHA}"
            offrl(folder, file, words + " --gate-data shifted.h5" * ("gate" in name))
            with node_and_car(folder, file, config.speed) as watching:
                found[name] = figures(watching.watch(config.drives, "", lambda: None))
            print(name, json.dumps(found[name]), flush=True)
    write_atomically(RESULTS, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Config))
