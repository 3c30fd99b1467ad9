"""The sweep file, and the trials that it asks for."""

import os
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from offrl_contract import InputError
from offrl_contract.errors import nearest
from offrl_contract.settings import read_mapping, validated
from pydantic import BaseModel, ConfigDict, Field, field_validator

from offrl_training import checkpoint
from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import AlgorithmConfig
from offrl_training.config import Seed, TrainingConfig
from offrl_training.run import read_config
from offrl_training.settings import run_settings


class SweepConfig(BaseModel):
    """Content of a sweep file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    algorithms: dict[str, dict[str, list[Any]]] = Field(min_length=1)
    """Algorithms, each with lists of values to try for its options, in every combination."""
    seeds: list[Seed] = Field([0], min_length=1)
    """Seeds of every combination."""
    options: dict[str, Any] = {}
    """Options of every trial, as in a file of `offrl train --config`."""

    @field_validator("algorithms", mode="before")
    @classmethod
    def _nothing_to_try(cls, algorithms: Any) -> Any:
        """Take `bc:` as an algorithm whose options all have their defaults."""
        if not isinstance(algorithms, dict):
            return algorithms
        return {name: {} if grid is None else grid for name, grid in algorithms.items()}


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    algorithm: str
    parameters: AlgorithmConfig
    training: TrainingConfig
    varied: tuple[tuple[str, Any], ...]
    """Options that the sweep varies, with the value that this trial has."""

    @property
    def configuration(self) -> str:
        """What distinguishes it but for the seed, such as `iql, expectile 0.9`."""
        return ", ".join([self.algorithm, *(f"{name} {value}" for name, value in self.varied)])

    @property
    def name(self) -> str:
        """Name of its run folder, such as `iql_expectile-0.9_seed-1`."""
        parts = (*self.varied, ("seed", self.training.seed))
        return "_".join([self.algorithm, *(f"{name}-{_in_a_name(value)}" for name, value in parts)])

    def done(self, out: Path, dataset_digest: str) -> bool:
        """Whether its run in the folder of the sweep is complete.

        Raises InputError where that run was made with other settings or from another dataset.
        """
        run = out / self.name
        if not os.path.exists(run / "config.yaml"):
            return False
        made = read_config(run)
        wanted = made.model_copy(
            update={
                "algorithm": self.algorithm,
                "parameters": self.parameters,
                "training": self.training,
                "dataset_digest": dataset_digest,
            }
        )
        difference = made.difference(wanted)
        if difference:
            raise InputError(f"{run}: was made otherwise: {difference}. Use another --out.")
        return checkpoint.steps_of(run)[-1:] == [self.training.steps]


def load_plan(file: Path) -> list[Trial]:
    """Read a sweep file. Raises InputError."""
    return plan(validated(SweepConfig, read_mapping(file), str(file)), str(file))


def plan(config: SweepConfig, where: str) -> list[Trial]:
    """Return the trials of a sweep; `where` names it in errors. Raises InputError."""
    trials: dict[str, Trial] = {}
    for algorithm, grid in config.algorithms.items():
        here = f"{where}: algorithms.{algorithm}"
        if algorithm not in ALGORITHMS:
            raise InputError(f"{here}: unknown algorithm.{nearest(algorithm, ALGORITHMS)}")
        if "seed" in (*grid, *config.options):
            raise InputError(f"{where}: seed: give the seeds as a list under 'seeds'")
        run_settings(algorithm, config.options, f"{where}: options, for {algorithm}")
        for *values, seed in product(*grid.values(), config.seeds):
            varied = tuple(zip(grid, values, strict=True))
            options = {**config.options, **dict(varied), "seed": seed}
            trial = Trial(algorithm, *run_settings(algorithm, options, here), varied)
            if trial.name in trials:
                raise InputError(f"{here}: two trials are {trial.name}: a value is given twice")
            trials[trial.name] = trial
    return list(trials.values())


def _in_a_name(value: Any) -> str:
    """Return a value as part of a file name."""
    text = "-".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text)
