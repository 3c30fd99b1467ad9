"""One bag's topics as time series of the robot file's terms.

A bag is read once, block by block. Of each topic only the messages that a tick can pick are
decoded: the newest one at or before each tick.
"""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot
from offrl_contract.definitions import definition_hashes, definition_texts, missing_types
from offrl_contract.frames import Tree, tree_of
from offrl_contract.reader import TermReader
from offrl_contract.robot import TRANSFORM_TOPICS, ActionTerm, Clock, ObservationTerm, Signal
from offrl_contract.sampling import Series, nanoseconds

from offrl_data.bags import CLOCK_TOPIC, Bag
from offrl_data.decoder import Decoder, TransformDecoder
from offrl_data.growing import Growing
from offrl_data.message_definitions import MessageDefinitions
from offrl_data.stamps import Times, ends_of_stretches, newest_at_ticks
from offrl_data.storage.base import Batch, Block, join

MAX_CLOCK_OFFSET = 1.0
"""A header or publish clock further from the receive clock than this is refused [s]."""
ODOMETRY = "nav_msgs/msg/Odometry"
_BLOCKS_WAITING = 64
_DECODED_AT_ONCE = 1 << 20  # [bytes]
EPISODE = "episode/"
"""Begin of the names of the series that say where an episode is; no term can have such a name."""
PATH = "odometry/path"
"""Name of the series (n, 2) of where the robot was, to look at; there where a topic is odometry."""

Floats = NDArray[np.float64]
AnyTerm = ObservationTerm | Signal | ActionTerm


@dataclass(frozen=True)
class TopicReport:
    """What was found on one topic."""

    topic: str
    type_name: str
    messages: int
    used: int
    """Messages that a tick can pick; the others are not decoded."""
    rate: float
    """Median rate [Hz]."""
    longest_gap: float
    """[s]"""
    values: dict[str, dict[str, Any]]
    """By term: how many numbers were NaN, infinite, out of range, clipped, of what lengths."""
    malformed: int
    """Of those used, messages that could not be read, or not as the robot file says."""
    header_offset: float | None
    """Median of header stamp minus receive stamp [s]; None without headers."""


@dataclass(frozen=True)
class BagSeries:
    """A bag, decoded."""

    series: dict[str, Series]
    """By term name."""
    tree: Tree
    """Transforms by child frame, where a term asks for a frame."""
    stamps: Times
    """Receive stamps of messages of these topics [ns], sorted; all that border a pause, and none
    from before a clock that is followed."""
    phase: int
    """Some tick [ns]."""
    topics: list[TopicReport]
    remarks: list[str]
    """What is odd about definitions."""
    definitions: dict[str, str] = field(default_factory=dict)
    """Definition text by type, of a ROS 2 bag."""
    hashes: dict[str, str] = field(default_factory=dict)
    """RIHS01 hash by type, of a ROS 2 bag."""


class _Column:
    """One topic while it is read: stamps of its messages and values of its terms."""

    def __init__(
        self, decoder: Decoder, clocks: Collection[str], every: bool, looks_back: bool
    ) -> None:
        self.decoder = decoder
        self.clocks = clocks
        self._every = every
        """Whether all messages are decoded: two events between two ticks are two."""
        self._looks_back = looks_back
        """Whether a history may ask for what was there before the first tick."""
        self._waiting: list[Batch] = []
        self._waiting_received: list[Times] = []
        self._waiting_bytes = 0
        self._received = Growing(None, np.int64)
        self._clocked = {clock: Growing(None, np.int64) for clock in clocks if clock != "receive"}
        """Header and publish stamps of all messages, where a term asks for them."""
        self._header_offsets = Growing(None, np.int64)
        self._used = Growing(None, np.int64)
        self._values = {
            name: Growing(each.width, np.float64) for name, each in decoder.terms.items()
        }
        self._frames: dict[str, list[NDArray[np.object_]]] = {
            name: [] for name, each in decoder.terms.items() if each.framed
        }

    def first(self, block: Block) -> int:
        """Return the first stamp of a block [ns]: the latest among the clocks in use."""
        return max(int(each[0]) for each in self._clocks_of(block).values())

    def take(self, block: Block, phase: int | None, period: int) -> None:
        """Take what a tick can pick of a block; it lies before all ticks where `phase` is None."""
        received = block.received
        stamps = self._clocks_of(block)
        picked = []
        for found in stamps.values():
            known = np.zeros_like(found) if phase is None else np.maximum(found, received) - phase
            picked.append(newest_at_ticks(found, known, period))
        if self._every or (self._looks_back and phase is None):
            picked = [np.arange(len(received))]
        rows = picked[0] if len(picked) == 1 else np.unique(np.concatenate([_NONE, *picked]))
        if self.decoder.terms:  # none in a topic of images, which are read later
            batch = block.pick(rows).packed()
            self._waiting.append(batch)
            self._waiting_bytes += len(batch.buffer)
            self._waiting_received.append(received[rows])
        if self._waiting_bytes > _DECODED_AT_ONCE:
            self.decode()
        for clock, each in self._clocked.items():
            each.extend(stamps.get(clock, _NONE))
        self._used.extend(rows + len(self._received))
        self._received.extend(received)

    def decode(self) -> None:
        """Decode what waits."""
        if not self._waiting:
            return
        batch, received = join(self._waiting), np.concatenate(self._waiting_received)
        decoded, frames = self.decoder.decode(batch)
        for name, values in decoded.items():
            self._values[name].extend(values)
        for name, each in frames.items():
            self._frames[name].append(each)
        self._header_offsets.extend(self.decoder.header_stamps(batch, received) - received)
        self._waiting, self._waiting_received, self._waiting_bytes = [], [], 0

    def _clocks_of(self, block: Block) -> dict[str, Times]:
        """Return the stamps of a block on the clocks in use."""
        found: dict[str, Times] = {}
        if "header" in self.clocks:
            batch = block.pick(np.arange(len(block.received)))
            found["header"] = self.decoder.header_stamps(batch, block.received)
        if "publish" in self.clocks and block.published is not None:
            found["publish"] = block.published
        if "receive" in self.clocks or not found:
            found["receive"] = block.received
        return found

    @property
    def received(self) -> Times:
        """Receive stamps (n,) [ns] of all messages, in the order of the file."""
        return self._received.view

    @property
    def timed(self) -> Times:
        """Those of messages that did not come before the clock, when all have the time 0."""
        timed: Times = self.received[self.received != 0]
        return timed

    def series(self, name: str, clock: Clock, bag: Bag) -> Series:
        """Return a term's samples in order of time, once. Raises InputError for a bad clock."""
        used, stamps = self._used.view, self.received
        if clock != "receive":
            stamps = self._checked_clock(name, clock, bag)
        values = self._values[name].take()
        frames = None
        if name in self._frames:
            frames = np.concatenate([np.zeros(0, np.str_), *self._frames[name]]).astype(np.str_)
        stamps, arrived = stamps[used], None if clock == "receive" else self.received[used]
        if (np.diff(stamps) < 0).any():
            order = np.argsort(stamps, kind="stable")
            stamps, values = stamps[order], values[order]
            arrived = None if arrived is None else arrived[order]
            frames = None if frames is None else frames[order]
        return Series(stamps, values, arrived, frames)

    def rows(self) -> Series:
        """Return which message of the topic, counted in the order of the file, came when."""
        used = self._used.view
        stamps = self.received[used]
        order = np.argsort(stamps, kind="stable")
        return Series(stamps[order], used[order, None].astype(np.float64))

    def _checked_clock(self, name: str, clock: Clock, bag: Bag) -> Times:
        """Return header or publish stamps, refusing a clock that cannot time a policy."""
        where = f"{bag.name}: {self.decoder.topic}: term '{name}' asks for clock: {clock}, but"
        remedy = "Use clock: receive."
        if clock == "header" and not self.decoder.has_header:
            raise InputError(f"{where} {self.decoder.type_name} has no header. {remedy}")
        stamps = self._clocked[clock].view
        if len(stamps) != len(self.received):
            raise InputError(f"{where} only mcap files carry publish times. {remedy}")
        if len(stamps) < 2:
            return stamps
        if (stamps == stamps[0]).all():
            raise InputError(
                f"{where} all {len(stamps)} stamps are {stamps[0] / 1e9:.3f}. {remedy}"
            )
        in_turn = stamps[np.argsort(self.received, kind="stable")]  # a file has sender by sender
        backwards = int((np.diff(in_turn) < 0).sum())
        if backwards:
            raise InputError(f"{where} it goes backwards {backwards} times. {remedy}")
        apart = (stamps - self.received)[self.received != 0]
        offset = float(np.median(apart)) / 1e9 if len(apart) else 0.0
        if abs(offset) > MAX_CLOCK_OFFSET:
            remedy += " Or --sim-time, for a simulator's log." * (CLOCK_TOPIC in bag.topics)
            raise InputError(f"{where} it is {offset:+.3f} s from the receive clock. {remedy}")
        return stamps

    def report(self) -> TopicReport:
        """Say what was found."""
        offset = None
        if self.decoder.has_header and len(self._header_offsets):
            offset = float(np.median(self._header_offsets.view)) / 1e9
        rate, longest_gap = pace(self.timed)
        return TopicReport(
            topic=self.decoder.topic,
            type_name=self.decoder.type_name,
            messages=len(self.received),
            used=len(self._used),
            rate=rate,
            longest_gap=longest_gap,
            values={name: asdict(each) for name, each in self.decoder.counts.items()},
            malformed=self.decoder.malformed,
            header_offset=offset,
        )


def pace(stamps: NDArray[np.int64]) -> tuple[float, float]:
    """Return the rate [Hz], one over the median gap, and the longest gap [s] of stamps (n,) [ns].

    The rate is 0 where there is no gap.
    """
    gaps = np.diff(np.sort(stamps))
    spacing = float(np.median(gaps)) / 1e9 if len(gaps) else 0.0
    return 1.0 / spacing if spacing else 0.0, float(gaps.max(initial=0)) / 1e9


_NONE = np.zeros(0, np.int64)


def read_series(
    bag: Bag, robot: Robot, definitions: MessageDefinitions, advance: Callable[[int], None]
) -> BagSeries:
    """Decode the topics that a robot file needs. Calls `advance` with the messages read.

    Raises InputError for a missing topic, another type, an unknown field, an unusable clock.
    """
    columns: dict[str, _Column] = {}
    texts: dict[str, str] = {}
    hashes: dict[str, str] = {}
    remarks: list[str] = []
    terms: list[AnyTerm] = [
        *robot.read_terms(),
        *robot.action,
        *_odometry(robot),
        *_episode_terms(robot),
    ]
    events = {topic.topic for topic in robot.episode.topics.values()}
    stacked = {term.topic for term in robot.observation if term.history > 1}
    if "" in stacked:  # of a source: action
        stacked |= {term.topic for term in robot.action}
    for name, type_name in all_topics(robot).items():
        topic = bag.topic(name, type_name)
        store, remark = definitions.of(topic, bag.name)
        remarks += [remark] if remark else []
        mine = [term for term in terms if term.topic == name]
        readers = {term.name: TermReader(term, store) for term in mine}
        decoder = Decoder(topic, readers, store)
        clocks = {_clock(robot, term) for term in mine} or {"receive"}
        columns[name] = _Column(decoder, sorted(clocks), name in events, name in stacked)
        if decoder.wire == "cdr":
            texts |= definition_texts(store, [type_name])
            hashes |= definition_hashes(store, [type_name])
        elif name in robot.topics(signals=False) and missing_types(definitions.ros2, type_name):
            remarks.append(
                f"{type_name}: of ROS 1, and the robot needs that of ROS 2: "
                "give `offrl export` --msgs DIR with its .msg file"
            )
    phase = _read(bag, robot, columns, advance)
    tree = _tree(bag, robot, definitions)
    series = {
        term.name: columns[term.topic].series(term.name, _clock(robot, term), bag) for term in terms
    }
    series |= {image.name: columns[image.topic].rows() for image in robot.images}
    for key, each in robot.episode.topics.items():
        if not each.field:
            series[EPISODE + key] = columns[each.topic].rows()
    width = nanoseconds(robot.episode.gap) // 2
    ends = [ends_of_stretches(column.timed, width) for column in columns.values()]
    stamps = np.sort(np.concatenate(ends))
    reports = [column.report() for column in columns.values()]
    remarks = list(dict.fromkeys(remarks))
    return BagSeries(series, tree, stamps, phase, reports, remarks, texts, hashes)


def all_topics(robot: Robot) -> dict[str, str]:
    """Return message type by topic, over everything that a conversion reads."""
    images = {image.topic: image.type for image in robot.images}
    episodes = {topic.topic: topic.type for topic in robot.episode.topics.values()}
    return robot.required_topics() | images | episodes


def _read(
    bag: Bag, robot: Robot, columns: dict[str, _Column], advance: Callable[[int], None]
) -> int:
    """Read a bag into columns; return some tick [ns].

    The first tick is when every observation topic has a message. Blocks wait for it, a few at
    most: of those further back a tick can pick the newest message, a history any.
    """
    phase: int | None = None
    unseen = {term.topic for term in robot.observation if term.source == "topic"}
    waiting: deque[tuple[_Column, Block]] = deque()
    first = 0
    for channel, block in bag.blocks(columns):
        column = columns[channel.topic]
        advance(len(block.received))
        if channel.topic in unseen:
            unseen.remove(channel.topic)
            first = max(first, column.first(block))
            phase = None if unseen else first
        waiting.append((column, block))
        while waiting and (phase is not None or len(waiting) > _BLOCKS_WAITING):
            old, its_block = waiting.popleft()
            old.take(its_block, phase, robot.period)
    for column, block in waiting:  # where a topic has no message, and there is no tick
        column.take(block, None, robot.period)
    for column in columns.values():
        column.decode()
    return first


def _tree(bag: Bag, robot: Robot, definitions: MessageDefinitions) -> Tree:
    """Read /tf and /tf_static, if a term needs them and the bag has them."""
    wanted = set(robot.topics()) - set(robot.required_topics())
    decoders = {
        name: TransformDecoder(bag.topics[name], definitions.of(bag.topics[name], bag.name)[0])
        for name in wanted & set(bag.topics)
    }
    for channel, block in bag.blocks(decoders):
        everything = np.arange(len(block.received))
        decoders[channel.topic].decode(block.pick(everything), block.received)
    for name, decoder in decoders.items():
        if decoder.malformed:
            bag.lose(f"{name}: {decoder.malformed} messages are malformed", decoder.malformed)
    logs = [decoders[name].log.series() if name in decoders else {} for name in TRANSFORM_TOPICS]
    return tree_of(*logs)


def _clock(robot: Robot, term: AnyTerm) -> Clock:
    """Commands are timed by reception: they take effect when they arrive."""
    return "receive" if isinstance(term, ActionTerm) else robot.clock_of(term)


def _episode_terms(robot: Robot) -> list[Signal]:
    """Return terms that read the fields of the topics that say where an episode is."""
    return [
        _internal(EPISODE + key, each.topic, each.type, (each.field,))
        for key, each in robot.episode.topics.items()
        if each.field
    ]


def _odometry(robot: Robot) -> list[Signal]:
    """Return a term that reads where the robot was, if one of its topics says so."""
    topics = [topic for topic, kind in robot.topics().items() if kind == ODOMETRY]
    fields = ("pose.pose.position.x", "pose.pose.position.y")
    return [_internal(PATH, topic, ODOMETRY, fields) for topic in topics[:1]]


def _internal(name: str, topic: str, kind: str, fields: tuple[str, ...]) -> Signal:
    """Return a term whose name no robot file can give."""
    signal = Signal(name="internal", topic=topic, type=kind, field=fields, clock="receive")
    return signal.model_copy(update={"name": name})
