"""A drive decided again from its bag: the same messages, times, network and gate, without ROS.

The node publishes a record of each tick (`record`). The replay gives a controller the messages
that the record names, at the node's own times, ticks it, and compares. It begins at a keyframe, and
again at the next one after a gap.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from offrl_contract import InputError
from offrl_contract.sampling import split_action
from pydantic import ValidationError
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.rosbag1 import ReaderError as Ros1Error
from rosbags.rosbag2 import ReaderError as Ros2Error
from rosbags.typesys import Stores, get_typestore

from offrl_policy.controller import Controller, Decision, Settings
from offrl_policy.gate import GateSettings, State
from offrl_policy.policy_file import GOLDEN_TOLERANCE, SCORE_TOLERANCE, Policy
from offrl_policy.record import Keyframe, Record, digest

STRING = "std_msgs/msg/String"
_STATIC = "/tf_static"
_BAG_ERRORS = (AnyReaderError, OSError, Ros1Error, Ros2Error)


@dataclass(frozen=True)
class Difference:
    """A tick that was decided otherwise than its record says."""

    tick: int
    """[ns]"""
    what: str


@dataclass
class Outcome:
    """What a replay found."""

    checked: int = 0
    """Decisions that were made again."""
    skipped: int = 0
    """Decisions from before the first keyframe, after a gap, or from messages before the bag."""
    lost: int = 0
    """Messages that the node received and the bag does not hold."""
    largest: float = 0.0
    """Largest difference of a command, relative to the action range."""
    differences: list[Difference] = field(default_factory=list)


class Bag:
    """The records of a bag, and its messages by topic and digest."""

    def __init__(self, path: Path, topic: str | None) -> None:
        """Read a bag; `topic` of the records where there are several. Raises InputError."""
        self.path = path
        with _opened(path) as reader:
            self.topic = self._choose(reader, topic)
            self.records = _in_order(self._read_records(reader))
            named = {
                t: name for r in self.records if r.keyframe for t, name in r.keyframe.topics.items()
            }
            self._content: dict[tuple[str, str], bytes] = {}
            self.static: list[tuple[int, bytes]] = []
            """Transforms that are sent once, perhaps before the first record."""
            for connection, stamp, raw in _messages(reader, set(named.values())):
                self._content[connection.topic, digest(raw)] = bytes(raw)
                if connection.topic == named.get(_STATIC):
                    self.static.append((stamp, bytes(raw)))

    def content(self, topic: str, name: str) -> bytes | None:
        """Return the bytes of a message, if the bag holds them."""
        return self._content.get((topic, name))

    def _choose(self, reader: AnyReader, topic: str | None) -> str:
        found = sorted(
            {
                c.topic
                for c in reader.connections
                if c.topic.endswith("/decision") and c.msgtype == STRING
            }
        )
        if topic is None and len(found) == 1:
            return found[0]
        if topic in found:
            return topic
        if not found:
            raise InputError(
                f"{self.path}: no decisions in it. Record the node's topic ~/decision, such as "
                "/policy/decision, beside the topics of the robot file."
            )
        raise InputError(f"{self.path}: --topic is one of {', '.join(found)}")

    def _read_records(self, reader: AnyReader) -> Iterator[Record]:
        store = get_typestore(Stores.ROS2_HUMBLE)
        for count, (_, _, raw) in enumerate(_messages(reader, {self.topic})):
            try:
                text: Any = store.deserialize_cdr(raw, STRING)
                yield Record.model_validate_json(text.data)
            except (ValidationError, ValueError) as error:
                raise InputError(
                    f"{self.path}: {self.topic}: message {count} is no decision: "
                    f"{str(error).splitlines()[0]}"
                ) from error


class Replay:
    """Decides the records of one bag again."""

    def __init__(self, policy: Policy, bag: Bag) -> None:
        self._policy = policy
        self._bag = bag
        self._topics: Mapping[str, str] = {}
        self._controller: Controller | None = None
        self._session = ""
        self._next = 0
        self._begin = 0
        """Messages from before are unknown [ns]."""
        self._in_step = False
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Decide all records again. Raises InputError where the bag is not of this policy."""
        for record in self._bag.records:
            if record.keyframe:
                self._require_policy(record.keyframe)
                self._topics = record.keyframe.topics
            if not self._topics:  # from before the first keyframe
                self.outcome.skipped += 1
                continue
            self._follow(record)
        return self.outcome

    def _follow(self, record: Record) -> None:
        if self._controller is None or record.session != self._session:
            self._session, self._in_step = record.session, False
            self._controller = Controller(self._policy, Settings())
            self._begin = record.tick
            for stamp, content in self._bag.static:
                if stamp <= record.tick:
                    self._controller.push(_STATIC, stamp, content)
        elif record.count != self._next:  # the records in between are lost
            self._in_step, self._begin = False, record.tick
        self._next = record.count + 1
        controller, lost = self._controller, self._tell(self._controller, record)
        self._begin = min(self._begin, record.tick)
        controller.clock_jumped_back(record.tick)
        if self._in_step and self._holds_all_of(record):
            self._compare(record, controller.tick(record.tick, record.engaged), lost)
        else:
            self._in_step = False
            self.outcome.skipped += 1
        if record.keyframe:
            controller.restore(record.keyframe.after)
            self._in_step = True

    def _tell(self, controller: Controller, record: Record) -> int:
        """Give the controller what the node was given; return how many messages are lost."""
        lost = 0
        for topic, messages in record.messages.items():
            for stamp, published, name in messages:
                content = self._bag.content(self._topics.get(topic, topic), name)
                if content is None:
                    lost += 1
                else:
                    controller.push(topic, stamp, content, published)
        for stamp, command in record.sent:
            values = np.array(command)
            controller.sent(stamp, values, _as_messages(self._policy, values, stamp))
        if record.backup:
            controller.back_up(*record.backup)
        if record.reset:
            controller.reset()
        if record.stop:
            controller.stop(record.stop)
        controller.late, controller.fault = record.late, record.fault
        if record.keyframe:
            controller.change(settings(record.keyframe.settings))
        self.outcome.lost += lost
        return lost

    def _holds_all_of(self, record: Record) -> bool:
        """Whether every sample that the tick used was received while the bag was recorded."""
        robot = self._policy.robot
        history = {term.name: (term.history - 1) * robot.period for term in robot.observation}
        return all(
            age < 0 or record.tick - age - history.get(name, 0) >= self._begin
            for name, age in record.ages.items()
        )

    def _compare(self, record: Record, decision: Decision, lost: int) -> None:
        self.outcome.checked += 1
        low, high = np.array(self._policy.robot.limits).T
        apart = float(np.max(np.abs(decision.command - record.command) / (high - low)))
        self.outcome.largest = max(self.outcome.largest, apart)
        what = ""
        if decision.state.value != record.state:
            found = f"{decision.state.value} ({decision.reason})"
            what = f"{found}, recorded {record.state} ({record.reason})"
        elif decision.state is State.STOP and decision.reason != record.reason:
            what = f"STOP for '{decision.reason}', recorded '{record.reason}'"
        elif not apart <= GOLDEN_TOLERANCE:
            what = f"command {decision.command.tolist()}, recorded {list(record.command)}"
        elif (ages := decision.ages) != record.ages:
            what = f"ages of the samples {ages} ns, recorded {record.ages}"
        elif not _alike(decision.levels, record.levels):
            what = f"scores {decision.levels}, recorded {record.levels}"
        if what:
            what += f" ({lost} messages of this tick are not in the bag)" if lost else ""
            self.outcome.differences.append(Difference(record.tick, what))

    def _require_policy(self, keyframe: Keyframe) -> None:
        if keyframe.policy != self._policy.checksum:
            raise InputError(
                f"{self._bag.path}: the policy file that drove is {keyframe.policy[:16]}, "
                f"{self._policy.path} is {self._policy.checksum[:16]}"
            )


def replay(bag: Path, policy: Path, topic: str | None = None) -> Outcome:
    """Decide the drive in a bag again. Raises InputError."""
    return Replay(Policy(policy), Bag(bag, topic)).run()


def _in_order(records: Iterator[Record]) -> list[Record]:
    """Sort by session and count: simulated time may jump back, and the bag's order with it."""
    found = list(records)
    sessions = list(dict.fromkeys(record.session for record in found))
    return sorted(found, key=lambda record: (sessions.index(record.session), record.count))


def settings(known: Mapping[str, Any]) -> Settings:
    """Return the controller's settings of a keyframe. Raises InputError."""
    try:
        return Settings(**{**known, "gate": GateSettings(**known["gate"])})
    except (KeyError, TypeError) as error:
        raise InputError(f"a keyframe's settings are not those of this version: {error}") from error


def _alike(found: Mapping[str, float], recorded: Mapping[str, float]) -> bool:
    return found.keys() == recorded.keys() and all(
        abs(found[name] - recorded[name]) <= SCORE_TOLERANCE for name in found
    )


def _as_messages(policy: Policy, command: Any, stamp: int) -> dict[str, Any]:
    """Return a command (a,) as messages that have the commanded fields, by topic."""
    seconds, nanoseconds = divmod(stamp, 10**9)
    made: dict[str, Any] = {}
    for term, values in split_action(policy.robot, command):
        time = SimpleNamespace(sec=seconds, nanosec=nanoseconds)
        at = made.setdefault(
            term.topic, SimpleNamespace(header=SimpleNamespace(stamp=time, frame_id=""))
        )
        for path, value in zip(term.field, values.tolist(), strict=True):
            target = at
            *parents, name = path.split(".")
            for parent in parents:
                if not hasattr(target, parent):
                    setattr(target, parent, SimpleNamespace())
                target = getattr(target, parent)
            setattr(target, name, value)
    return made


@contextmanager
def _opened(path: Path) -> Iterator[AnyReader]:
    if not path.exists():
        raise InputError(f"{path}: no such bag")
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
            yield reader
    except _BAG_ERRORS as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _messages(reader: AnyReader, topics: set[str]) -> Iterator[tuple[Connection, int, bytes]]:
    chosen = [c for c in reader.connections if c.topic in topics]
    return iter(reader.messages(chosen)) if chosen else iter(())
