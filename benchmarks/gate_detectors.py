"""Detectors of the unfamiliar: the gate's scores, together and alone, and plain alternatives.

All see the same observations and commands, and all but one are calibrated as the gate is, on the
maxima of the same held-out episodes: what differs is the score. `per step` has a threshold that one
tick in a hundred exceeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from offrl_data.dataset import Dataset
from offrl_export.calibration import calibrate
from offrl_export.graph import SCORES
from offrl_export.study import GATE
from offrl_policy.gate import Cusum, GateCalibration
from offrl_policy.policy_file import Policy
from offrl_training.algorithms.base import Batch, Dims
from offrl_training.gate_critics import GateCritics
from offrl_training.gate_critics import Policy as Act
from offrl_training.losses import td_target
from offrl_training.run import TrainedRun
from offrl_training.sampler import Sampler
from offrl_training.transitions import prepare, spread_rows
from torch import Tensor, nn

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]

PER_STEP = "per step, 1 %"
_PER_STEP_QUANTILE = 0.99
_NEVER = 1e18
_RND_STEPS = 4000
_RND_FEATURES = 16


@dataclass(frozen=True)
class Detector:
    """Scores ticks, and knows which scores are too high."""

    score: Callable[[Vectors, Vectors], Floats]
    """Of observations (T, o) and the commands in force after each (T, a), SI units: (T, k)."""
    calibration: GateCalibration

    def levels(self, observations: Vectors, commands: Vectors) -> Floats:
        """Return the highest score over its threshold at each tick (T,), CUSUMs among them."""
        cusum = Cusum(self.calibration)
        known = self.calibration.scores
        rows = []
        for scores in self.score(observations, commands).tolist():
            sums = cusum.update(scores)
            level = [score / each.threshold for score, each in zip(scores, known, strict=True)]
            level += [total / each.cusum_threshold for total, each in zip(sums, known, strict=True)]
            rows.append(max(level))
        return np.array(rows)


class SharedTargets(GateCritics):
    """Five critics with one pessimistic target, the least of theirs."""

    def targets(self, batch: Batch, policy: Act) -> Tensor:
        """Return r + gamma (1 - d) min_k Q'_k(s', pi(s')) for every critic (K, B)."""
        with torch.no_grad():
            action = policy(batch.next_observations)
            value = self.q_target(batch.next_observations, action).amin(0, keepdim=True)
        return td_target(batch.rewards, batch.discounts, value)


class Distillation(nn.Module):
    """Random network distillation. Burda et al. 2018, arXiv 1810.12894, sec. 2.2."""

    def __init__(self, states: Tensor) -> None:
        """Learn, on normalised states (n, o), what a random network says."""
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.target, self.guess = (_network(states.shape[1], width) for width in (64, 128))
        optimizer = torch.optim.Adam(self.guess.parameters(), 1e-3)
        for _ in range(_RND_STEPS):
            rows = torch.randint(len(states), (256,), generator=random)
            loss = self(states[rows]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def forward(self, states: Tensor) -> Tensor:
        """Return how far the guess is off (n,)."""
        error: Tensor = (self.guess(states) - self.target(states).detach()).square().mean(-1)
        return error


def _network(inputs: int, width: int) -> nn.Module:
    layers = nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, _RND_FEATURES)
    return nn.Sequential(*layers)


def detectors(
    policy: Policy,
    run: TrainedRun,
    dataset: Dataset,
    reference: Sequence[tuple[Vectors, Vectors]],
    held_out: Sequence[tuple[Vectors, Vectors]],
    alpha: float,
) -> dict[str, Detector]:
    """Build all, calibrated on reference and held-out episodes."""
    torch.manual_seed(0)
    batches = _batches(run, dataset)
    normaliser = run.algorithm.normaliser
    states = batches.packed[:, : run.robot.observation_size]
    shared = _shared_critics(run, batches)
    distilled = Distillation(states)
    mean = states.double().mean(0)
    inverse = torch.linalg.pinv(torch.cov(states.double().T))

    def gate(observations: Vectors, commands: Vectors) -> Floats:
        memory, rows = policy.initial_memory, []
        for seen, command in zip(observations, commands, strict=True):
            answer = policy.run(seen, memory)
            rows.append(answer.uncertainty)
            memory = policy.remember(answer.memory, command.astype(np.float64))
        return np.array(rows, np.float64)

    @torch.no_grad()
    def spread(observations: Vectors, commands: Vectors) -> Floats:  # noqa: ARG001
        seen = torch.from_numpy(observations)
        return shared(seen, run.algorithm.act(seen)).std(0)[:, None].double().numpy()

    @torch.no_grad()
    def distillation(observations: Vectors, commands: Vectors) -> Floats:  # noqa: ARG001
        here = normaliser.observation(torch.from_numpy(observations))
        return distilled(here)[:, None].double().numpy()

    @torch.no_grad()
    def mahalanobis(observations: Vectors, commands: Vectors) -> Floats:  # noqa: ARG001
        off = normaliser.observation(torch.from_numpy(observations)).double() - mean
        return torch.einsum("ti,ij,tj->t", off, inverse, off).clamp_min(0.0).sqrt()[:, None].numpy()

    def calibrated(score: Callable[[Vectors, Vectors], Floats], *names: str) -> Detector:
        normal, judged = ([score(*each) for each in episodes] for episodes in (reference, held_out))
        rate = run.robot.rate
        return Detector(score, calibrate(normal, judged, names, alpha, rate, lambda _: None))

    found = {GATE: Detector(gate, policy.gate)}
    for k, name in enumerate(SCORES):
        found[f"{name} alone"] = calibrated(lambda o, c, k=k: gate(o, c)[:, k : k + 1], name)
    found |= {
        "shared targets": calibrated(spread, "critic_std"),
        "Mahalanobis": calibrated(mahalanobis, "distance"),
        "RND": calibrated(distillation, "error"),
    }
    found[PER_STEP] = Detector(gate, _per_step(policy.gate, held_out, gate))
    return found


def _per_step(
    known: GateCalibration,
    held_out: Sequence[tuple[Vectors, Vectors]],
    score: Callable[[Vectors, Vectors], Floats],
) -> GateCalibration:
    ticks = np.concatenate([score(*each) for each in held_out])
    limits = np.quantile(ticks, _PER_STEP_QUANTILE, axis=0).tolist()
    scores = tuple(
        each.model_copy(update={"threshold": limit, "cusum_threshold": _NEVER})
        for each, limit in zip(known.scores, limits, strict=True)
    )
    return known.model_copy(update={"scores": scores})


def _batches(run: TrainedRun, dataset: Dataset) -> Sampler:
    transitions = prepare(dataset, run.train_episodes, run.training, run.config.gamma)
    rows = spread_rows(dataset, run.train_episodes, len(dataset))
    random = torch.Generator().manual_seed(1)
    return Sampler(transitions.take(rows), run.robot.observation_size, random)


def _shared_critics(run: TrainedRun, batches: Sampler) -> SharedTargets:
    """Train them for as many updates as the gate's own had, on the finished policy."""
    dims = Dims(run.robot.observation_size, run.robot.action_size, run.step)
    random = torch.Generator().manual_seed(0)
    critics = SharedTargets(dims, run.config.hidden, run.algorithm.normaliser, random)
    for _ in range(run.step // critics.interval):
        critics.update(batches.sample(run.training.batch), run.algorithm.quick_policy)
    return critics
