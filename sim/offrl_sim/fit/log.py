"""What a log says of a base: the commands that it was given, and how it moved."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot
from offrl_contract.reader import TermReader
from offrl_contract.robot import ActionTerm, Signal
from offrl_data.bags import Bag
from offrl_data.decoder import Decoder
from offrl_data.message_definitions import MessageDefinitions

Floats = NDArray[np.float64]
Times = NDArray[np.int64]

ODOMETRY = "nav_msgs/msg/Odometry"
LATEST = 0.5
"""A header stamp is taken for the time of measurement where it lies at most this long before
reception, and not after it [s]."""
PAUSE = 0.3
"""A longer silence of the odometry ends a stretch [s]."""
_MOTION = ("twist.twist.linear.x", "twist.twist.angular.z")
_PLACE = ("pose.pose.position.x", "pose.pose.position.y")


@dataclass(frozen=True)
class Commands:
    """The command in force as a step function of time."""

    times: Floats
    """(m,) [s] at which it changes, increasing."""
    values: Floats
    """(m, a) from each time on, SI units; that before the first is `values[0]` too."""

    def at(self, times: Floats) -> Floats:
        """Return the command in force (..., a) at times (...) [s]."""
        index = np.searchsorted(self.times, times, side="right") - 1
        found: Floats = self.values[np.maximum(index, 0)]
        return found


@dataclass(frozen=True)
class Stretch:
    """Motion without a pause."""

    times: Floats
    """(n,) [s] of measurement, increasing."""
    motion: Floats
    """(n, 2) forward speed [m/s], yaw rate [rad/s]."""
    place: Floats
    """(n, 2) x, y [m] in the odometry's frame."""
    commands: Commands
    """Those of the whole bag, on the same clock."""


@dataclass(frozen=True)
class Log:
    """Stretches of motion out of some bags."""

    stretches: list[Stretch]
    notes: list[str]
    """What a reader of the estimate should know of the bags."""


def read_log(
    bags: Sequence[Path], robot: Robot, order: Sequence[int], definitions: MessageDefinitions
) -> Log:
    """Read odometry and commands of bags; `order` gives the robot's action as the task's.

    Raises InputError where the robot file reads no odometry, or a bag lacks a topic.
    """
    odometry = _odometry_of(robot)
    stretches: list[Stretch] = []
    notes: list[str] = []
    for path in bags:
        with Bag(path) as bag:
            received, stamped, values = _columns(bag, odometry, definitions)
            origin = int(received[0])
            measured, note = _measured(received, stamped)
            notes += [f"{bag.name}: {note}"] if note else []
            commands = _commands(bag, robot, order, origin, definitions)
        stretches += _stretches((measured - origin) / 1e9, values, commands)
    return Log(stretches, notes)


def _odometry_of(robot: Robot) -> Signal:
    """Return a term that reads how and where the robot moved. Raises InputError."""
    topics = [topic for topic, kind in robot.topics().items() if kind == ODOMETRY]
    if not topics:
        raise InputError(f"robot '{robot.robot}': no term reads a {ODOMETRY}, which the fit needs")
    return Signal(name="motion", topic=topics[0], type=ODOMETRY, field=(*_MOTION, *_PLACE))


def _columns(
    bag: Bag, term: Signal | ActionTerm, definitions: MessageDefinitions
) -> tuple[Times, Times, Floats]:
    """Return when each message of a term's topic was received and stamped (n,), its values (n, w).

    In order of reception [ns]; malformed ones are NaN. Raises InputError.
    """
    topic = bag.topic(term.topic, term.type)
    store, _ = definitions.of(topic, bag.name)
    decoder = Decoder(topic, {term.name: TermReader(term, store)}, store)
    received, stamped, values = [], [], []
    for _, block in bag.blocks([term.topic]):
        batch = block.pick(np.arange(len(block.received)))
        received.append(block.received)
        stamped.append(decoder.header_stamps(batch, block.received))
        values.append(decoder.decode(batch)[0][term.name])
    if not received:
        raise InputError(f"{bag.name}: no message on {term.topic}, which the fit needs")
    arrived = np.concatenate(received)
    order = np.argsort(arrived, kind="stable")
    return arrived[order], np.concatenate(stamped)[order], np.concatenate(values)[order]


def _measured(received: Times, stamped: Times) -> tuple[Times, str]:
    """Return when messages were measured (n,) [ns], and a note where that had to be guessed."""
    offset = float(np.median(received - stamped)) / 1e9
    if 0.0 < offset <= LATEST and (np.diff(stamped) > 0).mean() > 0.9:
        return stamped, ""
    return received, (
        f"the odometry's header is {-offset:+.3g} s from its reception: times are those of "
        "reception, so that the delay is that of action and observation together"
    )


def _commands(
    bag: Bag, robot: Robot, order: Sequence[int], origin: int, definitions: MessageDefinitions
) -> Commands:
    """Return the command in force, limited as the base does it, seconds counting from `origin`."""
    parts = [_held(bag, term, origin, definitions) for term in robot.action]
    times = np.unique(np.concatenate([part.times for part in parts]))
    return Commands(times, np.hstack([part.at(times) for part in parts])[:, list(order)])


def _held(bag: Bag, term: ActionTerm, origin: int, definitions: MessageDefinitions) -> Commands:
    """Return a term's command in force: the safe one before the first and where `hold` is over."""
    received, _, values = _columns(bag, term, definitions)
    low, high = np.array(term.limits).T
    sound = np.isfinite(values).all(axis=1)
    times, values = (received[sound] - origin) / 1e9, np.clip(values[sound], low, high)
    over = times + term.hold
    silent = np.flatnonzero(np.append(times[1:], np.inf) > over)
    safe = np.tile(np.array(term.safe), (len(silent) + 1, 1))
    first = times[0] - 1e-6 if len(times) else 0.0
    times = np.concatenate([times, over[silent], [first]])
    values = np.vstack([values, safe])
    rising = np.argsort(times, kind="stable")
    return Commands(times[rising], values[rising])


def _stretches(times: Floats, values: Floats, commands: Commands) -> list[Stretch]:
    """Cut a bag's odometry (n, 4) at times (n,) [s] where it pauses."""
    sound = np.isfinite(values).all(axis=1)
    times, first = np.unique(times[sound], return_index=True)
    values = values[sound][first]
    cuts = np.flatnonzero(np.diff(times) > PAUSE) + 1
    return [
        Stretch(each, rows[:, :2], rows[:, 2:], commands)
        for each, rows in zip(np.split(times, cuts), np.split(values, cuts), strict=True)
        if len(each)
    ]
