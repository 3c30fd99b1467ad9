"""A recurrent policy: a GRU of torch, exported with its memory as an input and an output."""

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from offrl_policy.signature import seal
from onnx import helper
from support import metadata, robot
from torch import Tensor, nn

MEMORY = 6


class GruPolicy(nn.Module):
    """Observation (1, 8) and memory (1, 6) to action (1, 2), scores (1, 2) and memory.

    The scores are those of the plain test network: |twist.x| / 2 and |twist.z| / 2.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.cell = nn.GRUCell(8, MEMORY)
        self.head = nn.Linear(MEMORY, 2)

    def forward(self, observation: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        memory = self.cell(observation, memory)
        scores = observation[:, 4:6].abs() / 2.0
        return torch.tanh(self.head(memory)), scores, memory

    def unrolled(self, observations: np.ndarray) -> np.ndarray:
        """The actions (T, 2) of an episode (T, 8) that begins here."""
        memory, actions = torch.zeros(1, MEMORY), []
        with torch.no_grad():
            for row in torch.from_numpy(observations):
                action, _, memory = self(row[None], memory)
                actions.append(action[0].numpy())
        return np.array(actions)


def write_gru_policy(path: Path, policy: GruPolicy | None = None) -> Path:
    """Write a recurrent policy file for the test robot."""
    policy = policy or GruPolicy()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        program = torch.onnx.export(
            policy.eval(),
            (torch.zeros(1, 8), torch.zeros(1, MEMORY)),
            input_names=["observation", "state_gru"],
            output_names=["action", "uncertainty", "next_state_gru"],
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    model = onnx.load(path)
    observations = np.random.default_rng(1).normal(size=(16, 8)).astype(np.float32)
    golden = {
        "observations": observations.tolist(),
        "actions": policy.unrolled(observations).tolist(),
        "uncertainties": (np.abs(observations[:, 4:6]) / 2.0).tolist(),
    }
    helper.set_model_props(model, metadata(robot()) | {"golden": json.dumps(golden)})
    path.write_bytes(seal(model.SerializeToString()))
    return path
