"""Settings from YAML, checked: errors name the file, the key, the value and what is allowed."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from offrl_contract import InputError
from offrl_contract.errors import nearest
from pydantic import BaseModel, ValidationError

from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import AlgorithmConfig
from offrl_training.config import TrainingConfig

M = TypeVar("M", bound=BaseModel)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file whose keys are names. Raises InputError."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path}: not a mapping of names to values, such as 'steps: 100000'")
    return content


def validated(kind: type[M], content: Any, where: str) -> M:
    """Return content as a model of some kind. Raises InputError for the first thing wrong."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise _unknown(where, key, kind.model_fields) from error
        given = "" if first["type"] == "missing" else f", got {first['input']!r}"
        raise InputError(f"{where}: {key}: {first['msg']}{given}") from error


def run_settings(
    algorithm: str, values: Mapping[str, Any], where: str
) -> tuple[AlgorithmConfig, TrainingConfig]:
    """Return the settings of a run from values under the names of the command's options.

    `held-out` and `held_out` are one name. What is not given has its default. Raises InputError.
    """
    kind = ALGORITHMS[algorithm].config_type
    values = {name.replace("-", "_"): value for name, value in values.items()}
    for name in values:
        if name not in {**kind.model_fields, **TrainingConfig.model_fields}:
            raise _unknown(where, name, [*kind.model_fields, *TrainingConfig.model_fields])
    own, common = (
        {name: value for name, value in values.items() if name in model.model_fields}
        for model in (kind, TrainingConfig)
    )
    return validated(kind, own, where), validated(TrainingConfig, common, where)


def load_settings(algorithm: str, path: Path) -> tuple[AlgorithmConfig, TrainingConfig]:
    """Read the settings of a run from a file of options, or from another run's `config.yaml`.

    Raises InputError, also where that run is one of another algorithm.
    """
    values = read_mapping(path)
    if {"parameters", "training"} <= values.keys():
        if values.get("algorithm") != algorithm:
            raise InputError(
                f"{path}: algorithm: a run of '{values.get('algorithm')}', not of '{algorithm}'"
            )
        values = {**values["parameters"], **values["training"]}
    return run_settings(algorithm, values, str(path))


def _unknown(where: str, key: str, allowed: Iterable[str]) -> InputError:
    return InputError(f"{where}: {key}: unknown key.{nearest(key, allowed)}")
