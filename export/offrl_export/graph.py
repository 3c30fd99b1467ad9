"""The graph that goes into the policy file: policy, critic ensemble and prototypes in one."""

import copy
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from offrl_training.run import TrainedRun
from torch import Tensor, nn

OPSET = 18
SCORES = ("critic_std", "knn")
"""In the order of the output `uncertainty`."""
MAX_PROTOTYPES = 4096
NEIGHBOUR = 5
"""The score `knn` is the distance to the nearest but NEIGHBOUR - 1 prototype."""


class PolicyGraph(nn.Module):
    """Observation (B, o) in SI units to action (B, a) in SI units and uncertainty (B, 2)."""

    mean: Tensor
    std: Tensor
    prototypes: Tensor
    """(P, o) in normalised coordinates."""
    norms: Tensor
    """(P,) squared, of the prototypes."""

    def __init__(self, run: TrainedRun, states: NDArray[np.float32]) -> None:
        """Take the networks of a run, and states (n, o), MAX_PROTOTYPES at most, as prototypes."""
        super().__init__()
        # Two candidates may be so near in Q that single precision decides between them by chance:
        # another runtime, or the robot's processor, would choose the other.
        chooses = run.algorithm.chooses
        self.policy = copy.deepcopy(run.algorithm).double() if chooses else run.algorithm
        self.critics = run.gate_critics
        self.register_buffer("mean", run.algorithm.normaliser.observation_mean.clone())
        self.register_buffer("std", run.algorithm.normaliser.observation_std.clone())
        self.register_buffer("prototypes", (torch.from_numpy(states) - self.mean) / self.std)
        self.register_buffer("norms", self.prototypes.square().sum(-1))

    def act(self, observation: Tensor) -> Tensor:
        """Return the action (B, a)."""
        dtype = self.policy.normaliser.observation_mean.dtype
        return self.policy.act(observation.to(dtype)).float()

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Return action and uncertainty."""
        action = self.act(observation)
        critic_std = self.critics(observation, action).std(0)  # (B,)
        scores = torch.stack([critic_std, self.distance(observation)], dim=1)  # (B, 2)
        return action, scores

    def distance(self, observation: Tensor) -> Tensor:
        """Return the distance (B,) to the k-th nearest prototype, in normalised coordinates."""
        here = (observation - self.mean) / self.std
        # |s - p|^2 = |s|^2 - 2 s p + |p|^2: one product in place of P differences
        squared = torch.addmm(self.norms, here, self.prototypes.T, alpha=-2.0)  # (B, P), less |s|^2
        nearest = min(NEIGHBOUR, self.prototypes.shape[0])
        kth = squared.topk(nearest, dim=1, largest=False).values[:, -1]
        return (kth + here.square().sum(-1)).clamp_min(0.0).sqrt()


def write_graph(graph: PolicyGraph, observation_size: int, path: Path) -> onnx.ModelProto:
    """Export the graph to a file with batch 1, check it, and return the model."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, we do not
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        program = torch.onnx.export(
            graph.eval(),
            (torch.zeros(1, observation_size),),
            input_names=["observation"],
            output_names=["action", "uncertainty"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model
