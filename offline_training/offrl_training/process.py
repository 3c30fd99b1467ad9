"""What a process that trains sets up first."""

import torch
from offrl_contract.memory import keep_freed_memory

_LARGEST_BLOCK = 1 << 30  # [bytes]


def set_up(threads: int) -> None:
    """Take so many CPU threads, and keep freed memory: every step takes the same large blocks."""
    torch.set_num_threads(threads)
    keep_freed_memory(_LARGEST_BLOCK)
