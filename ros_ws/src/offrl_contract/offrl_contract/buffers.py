"""The latest messages of a topic, as a live robot holds them."""

from bisect import bisect_right, insort_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Generic, TypeVar

from offrl_contract.series import Floats

_MOST_AHEAD = 1000  # messages stamped later than now

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
    taken: int = field(init=False)
    """When its content was so, at the latest [ns]."""

    def __post_init__(self) -> None:
        self.known = max(self.stamp, self.received)
        self.taken = min(self.stamp, self.received)


_known = attrgetter("known")


class Buffer(Generic[T]):
    """Messages of one topic on one clock, in the order in which they became known."""

    def __init__(self) -> None:
        self.entries: list[Entry[T]] = []

    def push(self, entry: Entry[T], window: int) -> None:
        """Insert a message and forget those that no tick within `window` [ns] can ask for.

        Time is the message's reception: one stamped far ahead makes no other old, and of those
        ahead the nearest are kept.
        """
        insort_right(self.entries, entry, key=_known)
        at = bisect_right(self.entries, entry.known, key=_known) - 2
        if (
            at >= 0
            and self.entries[at].known == entry.known
            and self.entries[at].stamp <= entry.stamp
        ):
            del self.entries[at]  # every tick that knows it knows the later one
        begin = entry.received - window
        old = bisect_right(self.entries, begin, key=_known)
        if old > 1:  # one of the old ones still holds at the window's begin
            held = self.newest(begin)
            self.entries[:old] = [held] if held else []
        if self.entries[-1].known > entry.received:
            ahead = bisect_right(self.entries, entry.received, key=_known)
            del self.entries[ahead + _MOST_AHEAD :]

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
