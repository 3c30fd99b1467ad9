"""The step loop: sample, update, log, checkpoint; it waits for the device only to log."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from offrl_contract import InputError
from offrl_data.dataset import AnyDataset, DatasetFile
from torch.utils.flop_counter import FlopCounterMode

from offrl_training import checkpoint
from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import Algorithm, AlgorithmConfig, Batch, Dims, Metrics
from offrl_training.compiled import Update, compile_update, default_generator
from offrl_training.config import TrainingConfig
from offrl_training.gate_critics import GateCritics, interval
from offrl_training.logging import MetricsLog
from offrl_training.networks import Normaliser
from offrl_training.sampler import Batches, Sampler, check_actions, split_episodes, unpack
from offrl_training.stream import Stream
from offrl_training.tracking import OnLog
from offrl_training.transitions import Transitions, capacity, prepare, spread_rows

_HELD_OUT_ROWS = 4096
_TRIAL = 2  # steps, after which delayed updates have happened


class Trainer:
    """One run: data, algorithm, gate critics, and the step they are at."""

    def __init__(
        self, algorithm: str, config: AlgorithmConfig, training: TrainingConfig, dataset: AnyDataset
    ) -> None:
        """Prepare step 0. Raises InputError where the dataset or the device cannot be used."""
        if training.device == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: no CUDA device is available. Allowed here: cpu.")
        check_actions(dataset)
        self.training = training
        self.step = 0
        self.metrics: Metrics = {}
        self.train_episodes, self.held_out_episodes = split_episodes(
            len(dataset.lengths), training.held_out, training.seed
        )
        device = training.device
        generator = default_generator(device) if training.compile else torch.Generator(device)
        self.generator = generator.manual_seed(training.seed)
        transitions = prepare(dataset, self.train_episodes, training, config.gamma)
        self.transitions = transitions
        self.sampler: Batches = _sampler(transitions, self.train_episodes, training, self.generator)
        robot = dataset.robot
        held_out = spread_rows(dataset, self.held_out_episodes, _HELD_OUT_ROWS)
        packed = transitions.take(held_out)
        rows = torch.arange(len(held_out), device=packed.device)
        self._held_out = unpack(packed, rows, robot.observation_size) if len(held_out) else None
        dims = Dims(robot.observation_size, robot.action_size, training.steps)
        self.algorithm, self.gate_critics = build(
            algorithm, config, dims, transitions.normaliser, self.generator
        )
        if self.algorithm.needs_all:
            self.algorithm.prepare(self.sampler.everything())
        self.gate_critics.interval = self._interval()
        self._update: Update = self.algorithm.update
        self._update_gate: Update = self._gate_step
        if training.compile:
            self._update = compile_update(self._update, device)
            self._update_gate = compile_update(self._update_gate, device)

    def advance(self) -> None:
        """Take one training step."""
        batch = self.sampler.sample(self.training.batch)
        with self.precision():
            self.metrics |= self._update(batch)
            self.step += 1
            if self.step % self.gate_critics.interval == 0:
                self.metrics |= self._update_gate(batch)

    def _gate_step(self, batch: Batch) -> Metrics:
        return self.gate_critics.update(batch, self.algorithm.quick_policy)

    def _interval(self) -> int:
        """Return after how many steps the gate's critics may learn, by a trial of both.

        It depends on the operations counted, not on time, so that every machine finds the same.
        """
        before = copy.deepcopy(self.state())
        batch = self.sampler.sample(self.training.batch)
        with FlopCounterMode(display=False) as of_steps:
            for _ in range(_TRIAL):
                self.algorithm.update(batch)
        with FlopCounterMode(display=False) as of_gate:
            self._gate_step(batch)
        self.restore(before)
        return interval(of_gate.get_total_flops(), of_steps.get_total_flops() / _TRIAL)

    def precision(self) -> torch.autocast:
        """Return the context of an update; casts are not cached, as a step changes parameters."""
        half = self.training.precision == "bf16"
        device = self.training.device
        return torch.autocast(device, torch.bfloat16, enabled=half, cache_enabled=False)

    def take_metrics(self) -> Metrics:
        """Return the newest value of each metric since the last call, and the held-out errors."""
        metrics, self.metrics = self.metrics | self.evaluate(), {}
        return metrics

    @torch.no_grad()
    def evaluate(self) -> Metrics:
        """Return held-out errors: of actions (in half ranges) and of the gate's critics."""
        if self._held_out is None:
            return {}
        policy, batch = self.algorithm.quick_policy, self._held_out
        action_error = (policy(batch.observations) - batch.actions).square().mean().sqrt()
        td_error = self.gate_critics.error(batch, policy).square().mean().sqrt()
        return {"held_out_action_error": action_error, "held_out_td_error": td_error}

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        return {
            "algorithm": self.algorithm.state_dict(),
            "gate_critics": self.gate_critics.state_dict(),
            "optimizers": {name: opt.state_dict() for name, opt in self._optimizers().items()},
            "generator": self.generator.get_state(),
            "sampler": self.sampler.state(),
            "metrics": dict(self.metrics),
            "step": self.step,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go to the step of a checkpoint."""
        self.algorithm.load_state_dict(state["algorithm"])
        self.gate_critics.load_state_dict(state["gate_critics"])
        for name, optimizer in self._optimizers().items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.generator.set_state(state["generator"])
        self.sampler.restore(state["sampler"])
        self.metrics = dict(state["metrics"])
        self.step = int(state["step"])

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {**self.algorithm.optimizers(), "gate_critics": self.gate_critics.q_optimizer}


def _sampler(
    transitions: Transitions,
    episodes: NDArray[np.int64],
    training: TrainingConfig,
    generator: torch.Generator,
) -> Sampler | Stream:
    """Hold the transitions of some episodes on the device, or stream them from their file."""
    dataset, limit = transitions.dataset, training.memory_limit
    if limit is not None and isinstance(dataset, DatasetFile):
        return Stream(transitions, episodes, capacity(dataset, limit), training.seed)
    packed = transitions.take(spread_rows(dataset, episodes, len(dataset)))
    return Sampler(packed, dataset.robot.observation_size, generator)


def build(
    algorithm: str,
    config: AlgorithmConfig,
    dims: Dims,
    normaliser: Normaliser,
    generator: torch.Generator,
) -> tuple[Algorithm[Any], GateCritics]:
    """Create an algorithm and its gate critics."""
    built = ALGORITHMS[algorithm](config, dims, normaliser, generator)
    return built, GateCritics(dims, config.hidden, normaliser, generator)


def fit(
    trainer: Trainer,
    run: Path,
    on_step: Callable[[int], None],
    stop: Callable[[], bool],
    on_log: OnLog,
    save_every: float = math.inf,
) -> None:
    """Train to the last step, or until `stop()`; either way the last step has a checkpoint.

    `save_every` is the longest time between checkpoints [s], but for a step. Raises InputError
    where training diverges; no checkpoint holds a policy that is not finite.
    """
    fit_together([(trainer, run)], trainer.advance, on_step, stop, on_log, save_every)


def fit_together(
    members: Sequence[tuple[Trainer, Path]],
    advance: Callable[[], None],
    on_step: Callable[[int], None],
    stop: Callable[[], bool],
    on_log: OnLog,
    save_every: float = math.inf,
) -> None:
    """Do as `fit` with trainers at one step, each in a run folder, that `advance` takes on."""
    trainer, _ = members[0]
    training, started, first = trainer.training, time.perf_counter(), trainer.step
    saved = started
    with ExitStack() as stack:
        logs = [stack.enter_context(MetricsLog(run, first)) for _, run in members]
        while trainer.step < training.steps and not stop():
            advance()
            step = trainer.step
            last = step == training.steps
            if step % training.log_every == 0 or last:
                rate = (step - first) / (time.perf_counter() - started)
                for member, log in zip(members, logs, strict=True):
                    on_log(step, _log(*member, log, rate))
            late = time.perf_counter() - saved >= save_every
            if (late or step % training.checkpoint_every == 0) and not last:
                _save(members, logs)
                saved = time.perf_counter()
            on_step(step)
        if trainer.step > first:
            _save(members, logs)


def _log(trainer: Trainer, run: Path, log: MetricsLog, steps_per_second: float) -> dict[str, float]:
    """Write a row of metrics, and return it. Raises InputError where they are not finite."""
    metrics = {name: float(value) for name, value in trainer.take_metrics().items()}
    check_finite(metrics, run, trainer.step)
    metrics["steps_per_second"] = steps_per_second
    log.write(trainer.step, metrics)
    return metrics


def _save(members: Sequence[tuple[Trainer, Path]], logs: Sequence[MetricsLog]) -> None:
    """Write a checkpoint of every run, or of none where one has diverged."""
    for trainer, run in members:
        check_parameters(trainer, run, trainer.step)
    for (trainer, run), log in zip(members, logs, strict=True):
        log.sync()
        checkpoint.save(run, trainer.step, trainer.state())


def check_parameters(trainer: Trainer, run: Path, step: int) -> None:
    """Refuse to save networks that have diverged. Raises InputError."""
    parameters = trainer.algorithm.named_parameters()
    sums = {name: float(value.detach().sum()) for name, value in parameters}
    check_finite(sums, run, step)


def check_finite(metrics: dict[str, float], run: Path, step: int) -> None:
    """Refuse to go on from a diverged step. Raises InputError."""
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        saved = checkpoint.steps_of(run)
        kept = f"the last sound checkpoint is step {saved[-1]}" if saved else "no checkpoint yet"
        raise InputError(
            f"{run}: training diverged at step {step}: {bad[0]} is not finite ({kept}). "
            "Try a lower learning rate, or rewards of smaller size."
        )
