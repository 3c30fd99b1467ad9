"""Calibrated Q-Learning. Nakamoto et al. 2023, arXiv 2303.05479.

CQL that does not push Q below what the log earned. Settings are the defaults of the authors' code
(nakamotoo/Cal-QL, JaxCQL/conservative_sac.py); for AntMaze they take a Lagrange gap of 0.8 with
rewards times 10 minus 5. Deviation: three hidden layers as in `cql`; theirs vary by task.
"""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from offrl_training.algorithms.base import Batch
from offrl_training.algorithms.cql import CQL, CQLConfig


class CalQLConfig(CQLConfig):
    """CQL whose values stay on the scale of the log's returns."""

    backup_samples: PositiveInt = 10
    """Actions drawn at s', the best of which is backed up; 1 is CQL's backup."""
    warm_start: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the training steps in which the policy clones the data; CQL's authors do, 0.04."""


def calibrate(q: Tensor, returns_to_go: Tensor, uniform: int) -> Tensor:
    """Return max(Q, return-to-go), the calibrated value, but Q at the first `uniform` samples.

    q (K, B, n), returns_to_go (B,). The uniform samples stay as they are in the authors' code.
    """
    calibrated = torch.maximum(q[..., uniform:], returns_to_go.unsqueeze(-1))
    return torch.cat([q[..., :uniform], calibrated], -1)


class CalQL(CQL[CalQLConfig]):
    """As CQL, but pi(s) and pi(s') are not rated below the return of the driver who was there."""

    config_type = CalQLConfig

    def penalised(self, q: Tensor, batch: Batch) -> Tensor:
        """Return the calibrated values (2, B, 3n)."""
        return calibrate(q, batch.returns_to_go, self.config.samples)
