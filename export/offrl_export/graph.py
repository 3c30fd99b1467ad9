"""The graph of the policy file: policy, critics, prototypes and models of a step in one."""

import copy
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from offrl_policy.policy_file import BEFORE
from offrl_training.run import TrainedRun
from torch import Tensor, nn

from offrl_export import dynamics
from offrl_export.dynamics import Dynamics

OPSET = 18
SCORES = ("critic_std", "knn", *dynamics.SCORES)
"""In the order of the output `uncertainty`."""
MAX_PROTOTYPES = 4096
NEIGHBOUR = 5
"""The score `knn` is the distance to the nearest but NEIGHBOUR - 1 prototype."""


class PolicyGraph(nn.Module):
    """Observation (B, o) to action (B, a), both in SI units, and uncertainty (B, 4).

    `before` (B, o + a + 1) is what was observed a tick ago, the command in force since, and 1; or
    zeros, where that is not known.
    """

    mean: Tensor
    std: Tensor
    prototypes: Tensor
    """(P, o) in normalised coordinates."""
    norms: Tensor
    """(P,) squared, of the prototypes."""

    def __init__(self, run: TrainedRun, states: NDArray[np.float32], model: Dynamics) -> None:
        """Take the networks of a run and its model, and states (n, o) as prototypes.

        MAX_PROTOTYPES states at most.
        """
        super().__init__()
        # Two candidates may be so near in Q that single precision decides between them by chance:
        # another runtime, or the robot's processor, would choose the other.
        chooses = run.algorithm.chooses
        self.policy = copy.deepcopy(run.algorithm).double() if chooses else run.algorithm
        self.critics = run.gate_critics
        self.dynamics = model
        self.sizes = run.robot.observation_size, run.robot.action_size
        self.register_buffer("mean", run.algorithm.normaliser.observation_mean.clone())
        self.register_buffer("std", run.algorithm.normaliser.observation_std.clone())
        self.register_buffer("prototypes", (torch.from_numpy(states) - self.mean) / self.std)
        self.register_buffer("norms", self.prototypes.square().sum(-1))

    def act(self, observation: Tensor) -> Tensor:
        """Return the action (B, a)."""
        dtype = self.policy.normaliser.observation_mean.dtype
        return self.policy.act(observation.to(dtype)).float()

    def forward(self, observation: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return action, uncertainty, and what is `before` at the next tick."""
        action = self.act(observation)
        critic_std = self.critics(observation, action).std(0)  # (B,)
        apart = self.dynamics.disagreement(observation, action)  # (B,)
        previous, command, known = torch.split(before, [*self.sizes, 1], 1)
        off = known.squeeze(1) * self.dynamics.error(previous, command, observation)  # (B,)
        scores = torch.stack([critic_std, self.distance(observation), apart, off], 1)
        after = torch.cat([observation, action, torch.ones_like(known)], 1)
        return action, scores, after

    def distance(self, observation: Tensor) -> Tensor:
        """Return the distance (B,) to the k-th nearest prototype, in normalised coordinates."""
        here = (observation - self.mean) / self.std
        # |s - p|^2 = |s|^2 - 2 s p + |p|^2: one product in place of P differences
        squared = torch.addmm(self.norms, here, self.prototypes.T, alpha=-2.0)  # (B, P), less |s|^2
        nearest = min(NEIGHBOUR, self.prototypes.shape[0])
        kth = squared.topk(nearest, dim=1, largest=False).values[:, -1]
        return (kth + here.square().sum(-1)).clamp_min(0.0).sqrt()


def write_graph(graph: PolicyGraph, path: Path) -> onnx.ModelProto:
    """Export the graph to a file with batch 1, check it, and return the model."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, we do not
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        program = torch.onnx.export(
            graph.eval(),
            (torch.zeros(1, graph.sizes[0]), torch.zeros(1, sum(graph.sizes) + 1)),
            input_names=["observation", BEFORE],
            output_names=["action", "uncertainty", f"next_{BEFORE}"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model
