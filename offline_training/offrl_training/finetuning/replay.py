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

    def __init__(self, path: Path, capacity: int, width: int) -> None:
        """Open the file, or make it, for so many rows of 2 o + a + 3 columns."""
        self._file = np.memmap(
            path, np.float32, "r+" if path.exists() else "w+", shape=(capacity, width)
        )
        self.packed = torch.from_numpy(self._file)
        self.count = 0
        """Rows in use."""

    def add(self, packed: Tensor) -> None:
        """Take in the rows (n, 2 o + a + 3) of a whole episode."""
        self.packed[self.count : self.count + len(packed)] = packed
        self.count += len(packed)

    def sync(self) -> None:
        """Bring the rows to disk, so that no checkpoint is ahead of them."""
        self._file.flush()


class MixedSampler:
    """Draws a share of each batch from the dataset, the rest from what was seen online.

    While there is nothing online yet, all is from the dataset.
    """

    def __init__(
        self,
        offline: Batches,
        replay: Replay,
        share: float,
        observations: int,
        generator: torch.Generator,
    ) -> None:
        self.offline = offline
        self.replay = replay
        self._share = share
        self._observations = observations
        self._generator = generator

    def __len__(self) -> int:
        return len(self.offline) + self.replay.count

    @property
    def ready(self) -> bool:
        """Whether there is anything to draw."""
        return self._share > 0.0 or self.replay.count > 0

    def sample(self, size: int) -> Batch:
        """Draw one batch."""
        old = round(self._share * size) if self.replay.count else size
        parts = [self.offline.sample(old)] if old else []
        if size > old:
            device = self._generator.device
            rows = torch.randint(
                self.replay.count, (size - old,), generator=self._generator, device=device
            )
            packed = self.replay.packed.index_select(0, rows.cpu()).to(device)
            parts.append(unpack(packed, rows + len(self.offline), self._observations))
        return Batch(*map(torch.cat, zip(*parts, strict=True)))

    def everything(self) -> Batch:
        """Return all transitions of the dataset."""
        return self.offline.everything()

    def state(self) -> dict[str, int]:
        """Return what the next batch depends on besides the generator."""
        return {**self.offline.state(), "online": self.replay.count}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go to a state."""
        self.offline.restore({key: value for key, value in state.items() if key != "online"})
        self.replay.count = state.get("online", 0)


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
