"""The latest messages of a topic, as a live robot holds them."""

from bisect import bisect_right, insort_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Generic, TypeVar

from offrl_contract.series import Floats

T = TypeVar("T")


@dataclass
class Payload:
    """A message as it came, decoded at most once."""

    content: Any
    """Bytes or a deserialised message, then the fields that its terms read."""
    problems: dict[str, str] = field(default_factory=dict)
    """Why it could not be decoded, by term."""
    values: dict[str, Floats] = field(default_factory=dict)
    """By term."""
    frame: str = ""
    """The frame that its header names."""


@dataclass
class Entry(Generic[T]):
    """A message on one clock."""

    stamp: int
    """[ns]"""
    received: int
    """[ns]"""
    payload: T
    known: int = field(init=False)
    """The time from which a tick may use it [ns]."""

    def __post_init__(self) -> None:
        self.known = max(self.stamp, self.received)


_known = attrgetter("known")


class Buffer(Generic[T]):
    """Messages of one topic on one clock, in the order in which they became known."""

    def __init__(self) -> None:
        self.entries: list[Entry[T]] = []

    def push(self, entry: Entry[T], window: int) -> None:
        """Insert a message and forget those that no tick within `window` [ns] can ask for."""
        insort_right(self.entries, entry, key=_known)
        begin = self.entries[-1].known - window
        old = bisect_right(self.entries, begin, key=_known)
        if old > 1:  # one of the old ones still holds at the window's begin
            held = self.newest(begin)
            self.entries[:old] = [held] if held else []

    def newest(self, tick: int) -> Entry[T] | None:
        """Return the message that holds at a tick [ns]."""
        count = bisect_right(self.entries, tick, key=_known)
        if not count:
            return None
        last = self.entries[count - 1]
        if last.stamp == last.known:
            return last
        return max(reversed(self.entries[:count]), key=lambda entry: entry.stamp)

    def needed(self, ticks: Iterable[int]) -> list[Entry[T]]:
        """Return the messages that causal sampling at these ticks picks, in order of stamps."""
        found = {id(entry): entry for entry in map(self.newest, ticks) if entry}
        return sorted(found.values(), key=lambda entry: (entry.stamp, entry.known))
