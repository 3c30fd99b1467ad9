"""The README: its tables are those of the code, its examples run."""

import re
from pathlib import Path

import pytest
from offrl_contract import cli
from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import AlgorithmConfig
from offrl_training.config import TrainingConfig
from pydantic import BaseModel

README = Path(__file__).parents[2] / "offline_training" / "README.md"


def table(model: type[BaseModel], parent: type[BaseModel] | None = None) -> str:
    """The settings of a model that its parent lacks, or has with another default."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        inherited = parent.model_fields.get(name) if parent else None
        if inherited is None or inherited.default != field.default:
            value = field.default
            default = " ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            rows.append(f"| `--{name.replace('_', '-')}` | {default} | {meaning} |")
    return "\n".join(rows)


def tables() -> str:
    """What stands under the heading Parameters."""
    parts = [
        f"Every run:\n\n{table(TrainingConfig)}",
        f"Every algorithm:\n\n{table(AlgorithmConfig)}",
    ]
    for name, kind in ALGORITHMS.items():
        parts.append(f"`{name}`:\n\n{table(kind.config_type, AlgorithmConfig)}")
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
