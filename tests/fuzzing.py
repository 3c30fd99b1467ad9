"""Damages of files, as disks, networks and people who mean it do them."""

from collections.abc import Callable

import numpy as np

Damage = Callable[[bytearray, np.random.Generator], None]


def flip(content: bytearray, rng: np.random.Generator) -> None:
    for at in rng.integers(0, len(content), int(rng.integers(1, 20))):
        content[at] ^= 1 << int(rng.integers(0, 8))


def overwrite(content: bytearray, rng: np.random.Generator) -> None:
    at = int(rng.integers(0, len(content)))
    size = min(int(rng.integers(1, 4000)), len(content) - at)
    content[at : at + size] = bytes(size) if rng.random() < 0.5 else rng.bytes(size)


def cut(content: bytearray, rng: np.random.Generator) -> None:
    del content[int(rng.integers(0, len(content))) :]


def lose(content: bytearray, rng: np.random.Generator) -> None:
    at = int(rng.integers(0, len(content)))
    del content[at : at + int(rng.integers(1, 3000))]


def repeat(content: bytearray, rng: np.random.Generator) -> None:
    at = int(rng.integers(0, len(content)))
    content[at:at] = content[at : at + int(rng.integers(1, 3000))]


def huge(content: bytearray, rng: np.random.Generator) -> None:
    """Lengths and offsets that claim everything."""
    at = int(rng.integers(0, max(1, len(content) - 8)))
    size = int(rng.choice([2, 4, 8]))
    content[at : at + size] = b"\xff" * size


DAMAGES: tuple[Damage, ...] = (flip, overwrite, cut, lose, repeat, huge)
