"""The verb `export`."""

from pathlib import Path
from typing import Annotated

import tyro
from offrl_contract import InputError
from offrl_contract.settings import read_mapping
from offrl_data.dataset import open_dataset
from offrl_data.output import require_writable
from offrl_training.finetuning.folder import SETTINGS
from offrl_training.options import parse
from offrl_training.run import load_run
from pydantic import Field
from pydantic.dataclasses import dataclass

from offrl_export.policy import export_policy


@dataclass(frozen=True)
class ExportConfig:
    """Turn a training run into one policy file."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    data: Path
    """The dataset that the run was trained on."""
    gate_data: Path | None = None
    """Another dataset, of the robot as it is now, which nothing was trained on: from this one the
    gate learns what is normal, as after finetuning on a robot that has changed."""
    out: Path = Path("policy.onnx")
    """Policy file to write."""
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of normal episodes that the gate may stop, at most."""
    sign: Path | None = None
    """PEM file of an Ed25519 private key: sign the policy file."""
    jumps: tuple[str, ...] = ()
    """Observation terms that may jump with nothing amiss, such as a goal that is set anew on the
    way: the gate does not judge their steps."""
    msgs: Path | None = None
    """Folder with the .msg files of types that the dataset has no definition of. One that was
    converted from ROS 2 bags has all of them."""


def export(argv: list[str]) -> None:
    """Run `offrl export`. Raises InputError."""
    config = parse(ExportConfig, "export", argv)
    run = load_run(config.run)
    read = [config.data, *(each for each in (config.gate_data, config.sign) if each)]
    require_writable(config.out, read, [".onnx"])
    online = (config.run / SETTINGS).exists()
    learned = read_mapping(config.run / SETTINGS).get("new_digest") if online else None
    gate_data = open_dataset(config.gate_data) if config.gate_data else None
    if gate_data is not None and gate_data.digest in (run.dataset_digest, learned):
        raise InputError(
            f"--gate-data {config.gate_data}: the run was trained on it, and the gate would take "
            "for normal what is new. Give a log that nothing was trained on."
        )
    report = export_policy(
        run,
        open_dataset(config.data),
        gate_data,
        config.out,
        config.alpha,
        config.jumps,
        config.msgs,
        config.sign,
        print,
    )
    # one that was finetuned counts its own steps
    early = "" if online or run.step >= run.training.steps else f" of {run.training.steps}"
    print(
        f"{report.path}: {run.algorithm_name} at step {run.step}{early}\n"
        f"  parity: ONNX and torch differ by at most {report.parity:.2g} of the action range "
        f"over {report.observations} observations\n"
        f"  gate: alpha {report.alpha:g} from {report.threshold_episodes} held-out episodes; "
        f"false alarms, each half judged by the other: {report.false_alarms}"
    )
