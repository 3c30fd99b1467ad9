"""What was seen online, packed as the dataset is, and batches of both."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from offrl_contract import Robot
from offrl_data.dataset import Dataset
from torch import Tensor

from offrl_training.algorithms.base import Batch
from offrl_training.sampler import Batches, unpack

Vectors = NDArray[np.float32]


class Replay:
    """Transitions of ended episodes, in a file as large as they may become.

    Rows are only ever added, so that a checkpoint needs no more than their number: what a kill
    left behind it is written anew.
    """

    def __init__(self, path: Path, capacity: int, robot: Robot, generator: torch.Generator) -> None:
        """Open the file, or make it, for so many rows of 2 o + a + 3 columns."""
        width = 2 * robot.observation_size + robot.action_size + 3
        self._file = np.memmap(
            path, np.float32, "r+" if path.exists() else "w+", shape=(capacity, width)
        )
        self._packed = torch.from_numpy(self._file)
        self._observations = robot.observation_size
        self._generator = generator
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, packed: Tensor) -> None:
        """Take in the rows (n, 2 o + a + 3) of a whole episode."""
        self._packed[self._count : self._count + len(packed)] = packed
        self._count += len(packed)

    def sample(self, size: int) -> Batch:
        """Draw one batch."""
        device = self._generator.device
        rows = torch.randint(self._count, (size,), generator=self._generator, device=device)
        packed = self._packed.index_select(0, rows.cpu()).to(device)
        return unpack(packed, rows, self._observations)

    def everything(self) -> Batch:
        """Return all transitions, in order."""
        return unpack(self._packed[: self._count], torch.arange(self._count), self._observations)

    def state(self) -> dict[str, int]:
        """Return how many rows there are."""
        return {"online": self._count}

    def restore(self, state: Mapping[str, int]) -> None:
        """Forget the rows behind a state."""
        self._count = state["online"]

    def sync(self) -> None:
        """Bring the rows to disk, so that no checkpoint is ahead of them."""
        self._file.flush()


class MixedSampler:
    """Draws a share of each batch from the dataset, the rest from what is new.

    While there is nothing new yet, all is from the dataset.
    """

    def __init__(self, offline: Batches, new: Batches, share: float) -> None:
        self.offline = offline
        self.new = new
        self._share = share

    def __len__(self) -> int:
        return len(self.offline) + len(self.new)

    @property
    def ready(self) -> bool:
        """Whether there is anything to draw."""
        return self._share > 0.0 or len(self.new) > 0

    def sample(self, size: int) -> Batch:
        """Draw one batch."""
        old = round(self._share * size) if len(self.new) else size
        parts = [self.offline.sample(old)] if old else []
        if size > old:
            fresh = self.new.sample(size - old)
            parts.append(fresh._replace(rows=fresh.rows + len(self.offline)))
        return Batch(*map(torch.cat, zip(*parts, strict=True)))

    def everything(self) -> Batch:
        """Return all transitions of the dataset."""
        return self.offline.everything()

    def state(self) -> dict[str, int]:
        """Return what the next batch depends on besides the generator."""
        return {**self.offline.state(), **self.new.state()}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go to a state."""
        self.offline.restore(state)
        self.new.restore(state)


def as_dataset(
    robot: Robot, observations: Vectors, actions: Vectors, rewards: Vectors, terminal: bool
) -> Dataset:
    """Return one episode (L + 1, o), (L, a), (L,) as a dataset of its own."""
    length = len(rewards)
    ends = np.zeros(length, np.bool_)
    ends[-1] = True
    return Dataset(
        robot=robot,
        observations=observations[:-1],
        actions=actions,
        rewards=rewards,
        terminals=ends & terminal,
        timeouts=ends & (not terminal),
        starts=np.zeros(1, np.int64),
        lengths=np.array([length], np.int64),
        sources=("online",),
        stamps=np.zeros(1, np.int64),
        final_observations=observations[-1:],
        path=None,
        images={},
        metadata={},
        digest="",
    )
