"""A decision as it is published: what it was made from, and what it was, to be made again.

Messages are named by the node's own times and a digest of their bytes; the bytes are in the bag.
Once a second a keyframe holds the controller's state, so that a replay may begin there.
"""

import hashlib
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

from offrl_contract.robot import Spec
from pydantic import Field

from offrl_policy.collisions import Approach

MAX_MESSAGES = 10_000
"""Per topic, between two ticks; while the node is inactive, older ones are forgotten."""

Values = tuple[float, ...]
Received = tuple[int, int | None, str]
"""When it was received and sent [ns], and the digest of its bytes."""
Timed = tuple[int, Values]
"""A command and its time [ns]."""


def digest(content: bytes) -> str:
    """Return the name of a message's bytes (16 hex digits)."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _messages() -> dict[str, deque[Received]]:
    return defaultdict(lambda: deque(maxlen=MAX_MESSAGES))


@dataclass
class Inputs:
    """What a controller was told since its last tick, in no need of an order."""

    messages: dict[str, deque[Received]] = field(default_factory=_messages)
    """By topic."""
    sent: list[Timed] = field(default_factory=list)
    """Commands that this node published."""
    backup: Timed | None = None
    reset: bool = False
    stop: str = ""
    """Why it was stopped from outside."""
    engaged: bool = True
    """Of the tick itself, as are these two."""
    late: int = 0
    fault: str = ""


class GateState(Spec):
    """The gate between two ticks."""

    state: str
    reason: str
    fallen: bool
    latched: bool
    calm_since: int | None
    cusum: Values


class Snapshot(Spec):
    """A controller between two ticks; see its attributes of these names."""

    gate: GateState
    last_command: Values
    last_tick: int | None
    driver: str
    origin: Values
    handed_over: int
    last_driven: Timed | None
    engaged: bool
    backup: Timed | None
    memory: tuple[Values, ...]
    approaches: dict[str, Approach] = Field(default_factory=dict)
    """Of `collisions`, by term."""


class Keyframe(Spec):
    """What a replay can begin with."""

    policy: str
    """Checksum of the policy file."""
    settings: dict[str, Any]
    """Of the controller, in force at this tick."""
    topics: dict[str, str]
    """The robot file's topics, and what they are in this system (remappings)."""
    after: Snapshot
    """After this tick."""


class Record(Spec):
    """A tick: inputs and decision."""

    session: str
    """Changes with each configure."""
    count: int
    """Ticks of the session before this one."""
    tick: int
    """[ns]"""
    engaged: bool
    late: int
    fault: str
    messages: dict[str, tuple[Received, ...]]
    sent: tuple[Timed, ...]
    backup: Timed | None
    reset: bool
    stop: str
    state: str
    reason: str
    command: Values
    levels: dict[str, float]
    ages: dict[str, int]
    """Of the samples that each term used [ns]; -1 for none."""
    keyframe: Keyframe | None
