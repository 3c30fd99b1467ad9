"""The online loop: drive one step, learn, log, evaluate, save."""

import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from offrl_contract import InputError, Robot
from torch import Tensor

from offrl_training import checkpoint
from offrl_training.algorithms.base import Algorithm
from offrl_training.finetuning.config import FinetuneConfig
from offrl_training.finetuning.driver import Driver, Ended
from offrl_training.finetuning.envs import EnvProcess, Vector
from offrl_training.finetuning.replay import MixedSampler, Replay, as_dataset
from offrl_training.finetuning.rollout import Evaluation, dip, evaluate
from offrl_training.logging import MetricsLog
from offrl_training.networks import GaussianPolicy, StateGaussianPolicy, TanhGaussianPolicy
from offrl_training.trainer import Trainer, check_finite, check_parameters

_AT_LIMIT = 1.0 - 1e-3
_NETWORKS = ("algorithm", "gate_critics", "optimizers")

OnLog = Callable[[int, Mapping[str, float]], None]


@torch.no_grad()
def explore(algorithm: Algorithm[Any], observation: Tensor, noise: float) -> Tensor:
    """Return an action (a,) in [-1, 1] for an observation (1, o) in network coordinates.

    Drawn from the policy where it is a distribution; otherwise with Gaussian noise of a deviation,
    as in TD3.
    """
    policy, generator = algorithm.policy, algorithm.generator
    if isinstance(policy, TanhGaussianPolicy):
        return policy.sample(observation, 1, generator)[0][0, 0]
    if isinstance(policy, GaussianPolicy | StateGaussianPolicy):
        return policy.sample(observation, 1, generator)[0, 0]
    action: Tensor = policy(observation)[0]
    drawn = torch.randn(action.shape, generator=generator, device=action.device)
    return (action + noise * drawn).clamp(-1.0, 1.0)


class Finetuner:
    """A trainer whose batches come from a dataset and from what its policy drives."""

    def __init__(
        self, trainer: Trainer, replay: Replay, share: float, config: FinetuneConfig, robot: Robot
    ) -> None:
        """Begin at step 0; `share` of each batch is from the trainer's dataset."""
        self.trainer = trainer
        self.replay = replay
        self.sampler = MixedSampler(trainer.sampler, replay, share)
        trainer.sampler = self.sampler
        self.config = config
        self.robot = robot
        self.step = 0
        """Steps in the environment, those of the warm-up included."""
        self.evaluations: list[Evaluation] = []
        self.best: Evaluation | None = None
        """The evaluation that no later one has surpassed on the scenarios that both drove."""
        self._best: dict[str, Any] = {}
        self._bound, self._steps = 0, 0
        self._returns: list[float] = []
        self._successes: list[bool] = []

    @property
    def total(self) -> int:
        """Steps in the environment of the whole run."""
        return self.config.warm_up + self.config.steps

    def advance(self, driver: Driver) -> None:
        """Take one step in the environment, then learn if the warm-up is over."""
        observation = driver.observation()
        unit = explore(self.trainer.algorithm, self._seen(observation), self.config.noise)
        action, at_limit = self._command(unit)
        self._bound += at_limit
        ended = driver.step(action)
        if ended is not None:
            self._keep(ended)
        self.step += 1
        self._steps += 1
        if self.step > self.config.warm_up and self.sampler.ready:
            for _ in range(self.config.updates):
                self.trainer.advance()

    def take_metrics(self) -> dict[str, float]:
        """Return the metrics since the last call."""
        metrics = {name: float(value) for name, value in self.trainer.take_metrics().items()}
        metrics["bound_rate"] = self._bound / max(self._steps * self.robot.action_size, 1)
        if self._returns:
            metrics["online_return"] = float(np.mean(self._returns))
        if self._successes:
            metrics["online_success"] = float(np.mean(self._successes))
        self._bound, self._steps, self._returns, self._successes = 0, 0, [], []
        return metrics

    def evaluate(self, env: EnvProcess) -> dict[str, float]:
        """Evaluate the policy, and put the best one back where it has become much worse."""
        config = self.config
        ends = self.step in (0, self.total)
        episodes = config.evaluate_ends if ends and config.evaluate_ends else None
        found = evaluate(env, self._act, episodes or config.evaluate_episodes, self.step)
        score, best = found.against(self.best or found)
        fallen = config.rollback is not None and score < best - config.rollback * abs(best)
        self.evaluations.append(found)
        if self.best is None or score > best:
            self.best = found
            state = self.trainer.state()
            self._best = copy.deepcopy({name: state[name] for name in _NETWORKS})
        if fallen:
            self._put_back()
        metrics = {
            "eval_return": found.score,
            "eval_bound_rate": found.bound_rate,
            "dip": dip(self.evaluations),
            "rolled_back": float(fallen),
        }
        if found.successes:
            metrics["eval_success"] = float(np.mean(found.successes))
        return metrics

    def finish(self) -> None:
        """Leave with the networks of the best evaluation, unless the run keeps its last ones."""
        if self.config.rollback is not None and self.best is not self.evaluations[-1]:
            self._put_back()

    def state(self, driver: Driver) -> dict[str, Any]:
        """Return all that the next step depends on, but the rows of the replay file."""
        online = {
            "step": self.step,
            "driver": driver.state(),
            "evaluations": [each.as_dict() for each in self.evaluations],
            "best": self._best,
            "best_step": self.best.step if self.best else -1,
            "counts": [self._bound, self._steps, self._returns, self._successes],
        }
        return {**self.trainer.state(), "online": online}

    def restore(self, state: dict[str, Any], driver: Driver) -> None:
        """Go to the step of a checkpoint."""
        online = state["online"]
        self.trainer.restore(state)
        self.step = int(online["step"])
        self.evaluations = [Evaluation(**each) for each in online["evaluations"]]
        self._best = online["best"]
        found = [each for each in self.evaluations if each.step == online["best_step"]]
        self.best = found[0] if found else None
        self._bound, self._steps, self._returns, self._successes = online["counts"]
        driver.restore(online["driver"])

    def _put_back(self) -> None:
        self.trainer.restore(self.trainer.state() | copy.deepcopy(self._best))

    def _seen(self, observation: Vector) -> Tensor:
        normaliser = self.trainer.algorithm.normaliser
        device = normaliser.observation_mean.device
        return normaliser.observation(torch.from_numpy(observation)[None].to(device))

    @torch.no_grad()
    def _act(self, observation: Vector) -> tuple[Vector, int]:
        policy = self.trainer.algorithm.policy
        return self._command(policy(self._seen(observation))[0])

    def _command(self, unit: Tensor) -> tuple[Vector, int]:
        """Return an action (a,) of [-1, 1] in SI units, and how many entries are at a limit.

        Raises InputError where it is not finite: nothing such reaches a robot.
        """
        if not bool(unit.isfinite().all()):
            raise InputError(
                f"finetuning diverged at step {self.step}: the policy's action is not finite. "
                "Try a lower learning rate, or rewards of smaller size."
            )
        si: Vector = self.trainer.algorithm.normaliser.action_to_si(unit).cpu().numpy()
        return si, int((unit.abs() >= _AT_LIMIT).sum())

    def _keep(self, ended: Ended) -> None:
        """Pack an ended episode as the dataset's are packed, its returns-to-go among the rest."""
        columns = (ended.observations, ended.commands, ended.rewards)
        episode = self.trainer.transitions.of(as_dataset(self.robot, *columns, ended.terminal))
        self.replay.add(episode.pack(0, len(ended.rewards)))
        self._returns.append(float(ended.rewards.sum()))
        if ended.success is not None:
            self._successes.append(ended.success)


def run_online(
    tuner: Finetuner,
    run: Path,
    envs: tuple[Driver, EnvProcess],
    save_every: float,
    stop: Callable[[], bool],
    on_log: OnLog,
) -> None:
    """Finetune to the last step, or until `stop()`; either way the last step has a checkpoint.

    `envs` are the driver of the learning episodes, and the environment of the evaluations;
    `save_every` is the time between checkpoints [s], longer by what a step or an evaluation takes.
    Raises InputError where training diverges, or the environment crashes again and again.
    """
    driver, env = envs
    started, first, saved = time.perf_counter(), tuner.step, time.monotonic()
    with MetricsLog(run, first) as log:
        if not tuner.evaluations:
            _log(tuner, run, log, tuner.evaluate(env), on_log)
            _save(tuner, run, log, driver)
        while tuner.step < tuner.total and not stop():
            tuner.advance(driver)
            metrics = tuner.evaluate(env) if _is_due(tuner) else {}
            if metrics or tuner.step % tuner.config.log_every == 0:
                rate = (tuner.step - first) / (time.perf_counter() - started)
                metrics |= {"steps_per_second": rate, "env_crashes": float(driver.crashes)}
                _log(tuner, run, log, metrics, on_log)
            last = tuner.step == tuner.total
            if last:
                tuner.finish()
            if last or time.monotonic() - saved >= save_every:
                _save(tuner, run, log, driver)
                saved = time.monotonic()
        if first < tuner.step < tuner.total:
            _save(tuner, run, log, driver)


def _is_due(tuner: Finetuner) -> bool:
    """Whether an evaluation follows this step: none in the warm-up, one at the end."""
    learned = tuner.step - tuner.config.warm_up
    every = tuner.config.evaluate_every
    return learned > 0 and (learned % every == 0 or tuner.step == tuner.total)


def _log(
    tuner: Finetuner, run: Path, log: MetricsLog, metrics: Mapping[str, float], on_log: OnLog
) -> None:
    row = tuner.take_metrics() | dict(metrics)
    check_finite(row, run, tuner.step)
    log.write(tuner.step, row)
    on_log(tuner.step, row)


def _save(tuner: Finetuner, run: Path, log: MetricsLog, driver: Driver) -> None:
    check_parameters(tuner.trainer, run, tuner.step)
    log.sync()
    tuner.replay.sync()
    checkpoint.save(run, tuner.step, tuner.state(driver))
