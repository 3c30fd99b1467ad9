"""The README: its tables are those of the code, its examples run."""

import re
from pathlib import Path

import pytest
from offrl_contract import cli
from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import AlgorithmConfig
from offrl_training.config import TrainingConfig
from offrl_training.evaluation.config import EvaluationConfig
from offrl_training.finetuning.config import FinetuneConfig
from offrl_training.sweep.plan import SweepConfig
from readme_tables import options

README = Path(__file__).parents[2] / "offline_training" / "README.md"


def tables() -> str:
    """What stands under the heading Parameters."""
    parts = [
        f"Every run:\n\n{options(TrainingConfig, dash='--')}",
        f"Every algorithm:\n\n{options(AlgorithmConfig, dash='--')}",
    ]
    for name, kind in ALGORITHMS.items():
        table = options(kind.config_type, AlgorithmConfig, dash="--")
        parts.append(f"`{name}`:\n\n{table}")
    usage = "`offrl evaluate RUN [RUN ...] --data DATASET [--out FILE]`"
    parts.append(f"{usage}:\n\n{options(EvaluationConfig, dash='--')}")
    usage = (
        "`offrl finetune RUN --env ID|--bags BAGS [--profile FILE] [--interventions keep|cut] "
        "[--data DATASET]\n[--out RUN] [--save-every SECONDS] [--resume]`"
    )
    parts.append(f"{usage}:\n\n{options(FinetuneConfig, dash='--')}")
    parts.append(f"A sweep file:\n\n{options(SweepConfig)}")
    return "\n\n".join(parts)


def test_parameter_tables_are_those_of_the_code() -> None:
    assert tables() in README.read_text(), f"paste this under Parameters:\n{tables()}"


def test_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.h5").write_bytes(path.read_bytes())
    text = README.read_text()
    commands = re.findall(r"^offrl (train .*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        assert cli.run(command.split()) == 0
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(example, str(README), "exec"), {})
