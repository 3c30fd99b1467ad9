"""Batches of a dataset larger than memory, shuffled anew in each pass over it.

The rows of the file are cut into blocks of equal size. In each pass the blocks are dealt at random
into pools that fit in memory. One pool after the other is read, its rows are shuffled together and
given out: in each pass, every training transition comes exactly once.

Two rows of one block are always in one pool, those of two blocks seldom. In a batch of B, there are
(B - 1) (c - 1) / (n - 1) others of the block of each transition on average, c and n being the rows
of block and pool: about B / 256 where a pool has 256 blocks, and less than twice that in any, as
the blocks are dealt evenly. Drawn from the whole of N rows it would be (B - 1) (c - 1) / (N - 1).

The order is a function of seed, pass and pool. A place in it is three numbers, from which a resumed
run goes on to the bit.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from offrl_contract import InputError

from offrl_training.algorithms.base import Batch
from offrl_training.sampler import unpack
from offrl_training.statistics import episode_of
from offrl_training.transitions import Transitions

_BLOCKS = 256
# A smaller block takes as long to read.
_ROWS_PER_BLOCK = 256


class Stream:
    """Draws batches without replacement, a pool in memory at a time."""

    def __init__(
        self, transitions: Transitions, episodes: NDArray[np.int64], capacity: int, seed: int
    ) -> None:
        """Begin the first pass over some episodes, with a pool of at most `capacity` rows."""
        dataset = transitions.dataset
        self._transitions = transitions
        self._chosen = np.zeros(len(dataset.lengths), np.bool_)
        self._chosen[episodes] = True
        self._seed = seed
        self.rows_per_block = max(capacity // _BLOCKS, min(capacity, _ROWS_PER_BLOCK))
        edges = np.arange(0, len(dataset) + self.rows_per_block, self.rows_per_block)
        self._counts = np.diff(self._chosen_before(np.minimum(edges, len(dataset))))
        self._blocks = np.flatnonzero(self._counts)
        self.pools = -(-len(self._blocks) // (capacity // self.rows_per_block))
        width = transitions.pack(0, 1).shape[1]
        device = transitions.normaliser.observation_mean.device
        self._pool = torch.empty(capacity, width, device=device)
        self._place = {"pass": 0, "pool": 0, "used": 0}
        self._rows = -1

    def __len__(self) -> int:
        return int(self._counts.sum())

    def sample(self, size: int) -> Batch:
        """Draw one batch."""
        batch, done = self._pool.new_empty(size, self._pool.shape[1]), 0
        while done < size:
            if self._rows < 0:
                self._rows = self._fill()
            used = self._place["used"]
            count = min(size - done, self._rows - used)
            batch[done : done + count] = self._pool[used : used + count]
            self._place["used"] += count
            done += count
            if self._place["used"] == self._rows:
                self._turn()
        rows = torch.arange(size, device=batch.device)
        return unpack(batch, rows, self._transitions.dataset.robot.observation_size)

    def everything(self) -> Batch:
        """Raise InputError: not all transitions are in memory."""
        raise InputError(
            "--memory-limit: this algorithm compares all transitions with one another, so they "
            "have to be in memory. Leave the limit out, or use another algorithm."
        )

    def state(self) -> dict[str, int]:
        """Return the place in the stream."""
        return dict(self._place)

    def restore(self, state: Mapping[str, int]) -> None:
        """Go to a place; the pool that is in memory is not read again if it is that one."""
        same = all(self._place[key] == state[key] for key in ("pass", "pool"))
        self._place, self._rows = dict(state), self._rows if same else -1

    def _turn(self) -> None:
        """Go to the next pool, or to the first of the next pass."""
        last = self._place["pool"] + 1 == self.pools
        self._place = {
            "pass": self._place["pass"] + last,
            "pool": 0 if last else self._place["pool"] + 1,
            "used": 0,
        }
        self._rows = -1

    def _fill(self) -> int:
        """Read and shuffle the pool of this place; return how many rows it has."""
        number, pool = self._place["pass"], self._place["pool"]
        order = np.random.default_rng([self._seed, number]).permutation(self._blocks)
        blocks = np.sort(np.array_split(order, self.pools)[pool])
        count = int(self._counts[blocks].sum())
        places = np.random.default_rng([self._seed, number, pool]).permutation(count)
        filled = 0
        for block in blocks:
            packed = self._read(int(block))
            target = torch.from_numpy(places[filled : filled + len(packed)])
            self._pool.index_copy_(0, target.to(self._pool.device), packed)
            filled += len(packed)
        return count

    def _read(self, block: int) -> torch.Tensor:
        """Return the chosen rows of a block, packed."""
        dataset = self._transitions.dataset
        first = block * self.rows_per_block
        last = min(first + self.rows_per_block, len(dataset))
        chosen = self._chosen[episode_of(dataset, np.arange(first, last))]
        packed = self._transitions.pack(first, last)
        return packed if chosen.all() else packed[torch.from_numpy(chosen)]

    def _chosen_before(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many chosen rows lie before each of some rows (n,)."""
        dataset = self._transitions.dataset
        lengths = dataset.lengths * self._chosen
        before = np.concatenate([[0], np.cumsum(lengths)])
        episodes = episode_of(dataset, np.minimum(rows, len(dataset) - 1))
        inside = (rows - dataset.starts[episodes]) * self._chosen[episodes]
        counts: NDArray[np.int64] = before[episodes] + inside
        return counts
