"""Signals that ask a command to save and leave."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

_EXIT_SIGNAL = 128


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that work is saved first; a second one ends at once."""
    caught: list[int] = []
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def catch(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        caught.append(number)
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore()


def leave(caught: Sequence[int]) -> None:
    """Leave as the signals ask, if there are any: KeyboardInterrupt, or SystemExit 143."""
    if signal.SIGINT in caught:
        raise KeyboardInterrupt
    if caught:
        raise SystemExit(_EXIT_SIGNAL + caught[0])
