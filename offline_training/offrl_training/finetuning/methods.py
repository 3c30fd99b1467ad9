"""What goes on learning: the run's own algorithm, or another that begins from it or beside it.

`continue` of cal_ql is Cal-QL online as in the authors' code: half of each batch from the dataset,
the calibration stays on, the return-to-go of an online episode is known when it has ended. Its
deviation: an update follows each step, where theirs follow each episode, as many. `wsrl` follows
the authors' finetuning (zhouzypaul/wsrl): SAC without the dataset, from the offline networks and
optimisers, after a warm-up. Its deviations: the run's two critics, not ten with LayerNorm; 1 update
per step and 1,000 steps of warm-up by default, where theirs are 4 and 5,000.
"""

from typing import Any

from offrl_contract import InputError
from offrl_data.dataset import AnyDataset

from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import AlgorithmConfig
from offrl_training.algorithms.cql import CQLConfig
from offrl_training.config import TrainingConfig
from offrl_training.finetuning.config import FinetuneConfig, Method, Preset
from offrl_training.run import RunConfig
from offrl_training.trainer import Trainer

_BATCH: dict[Preset, int] = {"paper": 256, "small": 128}
_SAMPLES: dict[Preset, int] = {"paper": 10, "small": 4}
_HIDDEN: dict[Preset, tuple[int, ...]] = {"paper": (256, 256), "small": (128, 128)}
_FROM_SCRATCH: tuple[Method, ...] = ("rlpd", "sac")
_WARM_STARTS = ("cql", "cal_ql", "sac")  # runs whose networks are those of SAC
_WITHOUT_DATASET: tuple[Method, ...] = ("wsrl", "sac")


def settings(
    config: FinetuneConfig, offline: RunConfig
) -> tuple[str, AlgorithmConfig, TrainingConfig]:
    """Return name and settings of the algorithm, and those of the trainer.

    Raises InputError where the method cannot begin from this run.
    """
    name = {"continue": offline.algorithm, "rlpd": "rlpd"}.get(config.method, "sac")
    own = offline.parameters
    if ALGORITHMS[name].needs_all:
        raise InputError(f"{name}: counts the transitions of a dataset; it cannot take in new ones")
    if config.method == "wsrl" and offline.algorithm not in _WARM_STARTS:
        raise InputError(
            f"--method wsrl: goes on from the policy and critics of {', '.join(_WARM_STARTS[:-1])} "
            f"or {_WARM_STARTS[-1]}, not of {offline.algorithm}"
        )
    kind = ALGORITHMS[name].config_type
    shared = own.model_dump(include=set(kind.model_fields))
    if config.method == "continue" and isinstance(own, CQLConfig) and config.preset != "run":
        shared["samples"] = _SAMPLES[config.preset]
        shared["backup_samples"] = min(own.backup_samples, _SAMPLES[config.preset])
    if config.penalty_weight is not None:
        if config.method != "continue" or not isinstance(own, CQLConfig):
            raise InputError(
                f"--penalty-weight {config.penalty_weight:g}: of cql and cal_ql that continue; "
                f"this is --method {config.method} of {offline.algorithm}"
            )
        shared["weight"] = config.penalty_weight
    if config.method in _FROM_SCRATCH and config.preset != "run":
        shared["hidden"] = _HIDDEN[config.preset]
    batch = _BATCH.get(config.preset, offline.training.batch)
    training = offline.training.model_copy(update={"batch": batch, "compile": False})
    return name, kind.model_validate(shared), training


def dataset_share(config: FinetuneConfig) -> float:
    """Return the share of each batch from the dataset; some methods learn from new data alone."""
    return 0.0 if config.method in _WITHOUT_DATASET else config.offline_share


def prepare(
    config: FinetuneConfig, offline: RunConfig, state: dict[str, Any], dataset: AnyDataset
) -> Trainer:
    """Return a trainer on the dataset of a run, with what the method takes over of its networks.

    `state` is the run's last checkpoint. Raises InputError.
    """
    trainer = Trainer(*settings(config, offline), dataset)
    trainer.generator.manual_seed(config.seed)
    if config.method not in _FROM_SCRATCH:
        _take_over(trainer, state)
    trainer.algorithm.begin_online()
    return trainer


def _take_over(trainer: Trainer, state: dict[str, Any]) -> None:
    """Load those parts of a checkpoint that the trainer has: of CQL, SAC takes all but alpha'."""
    own = trainer.state()
    for part in ("algorithm", "optimizers"):
        own[part] = {name: state[part][name] for name in own[part]}
    own["gate_critics"] = state["gate_critics"]
    own["step"] = state["step"]
    trainer.restore(own)
