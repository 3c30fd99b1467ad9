"""The real chain on real recordings, made once: four bags to train, one held out."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ("neato_drive_square", "neato_finite_state", "neato_person_follower", "neato_teleop")
HELD_OUT = "neato_obstacle_avoider"


@dataclass(frozen=True)
class Chain:
    """What the chain made."""

    data: Path
    run: Path
    policy: Path
    held_out: Path
    """The bag that was never trained on."""
    held_out_data: Path


def offrl(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    command = [sys.executable, "-m", "offrl_contract.cli", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="session")
def neato(bags: Path, msgs: Path, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("neato")
    chain = Chain(
        data=folder / "train.h5",
        run=folder / "run",
        policy=folder / "policy.onnx",
        held_out=bags / HELD_OUT,
        held_out_data=folder / "held_out.h5",
    )
    tail = ("--robot", "neato", "--msgs", msgs, "--out")
    small = ("--steps", 400, "--hidden", 64, 64, "--held-out", 0.4)
    for step in (
        ("convert", *(bags / name for name in TRAIN), *tail, chain.data),
        ("convert", chain.held_out, *tail, chain.held_out_data),
        ("train", "iql", chain.data, "--out", chain.run, *small),
        ("export", chain.run, "--data", chain.data, "--out", chain.policy, "--alpha", 0.25),
    ):
        done = offrl(*step)
        assert done.returncode == 0, f"offrl {step[0]}: {done.stderr}"
    return chain
