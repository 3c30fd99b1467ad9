"""The settings of a run, from a file or from options."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offrl_contract import InputError
from offrl_contract.settings import read_mapping, unknown_key, validated

from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import AlgorithmConfig
from offrl_training.config import TrainingConfig


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
            raise unknown_key(where, name, [*kind.model_fields, *TrainingConfig.model_fields])
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
