"""The time of /clock, for logs of a simulator: what a node with use_sim_time has for the time."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError
from offrl_contract.errors import nearest
from offrl_contract.reader import TermReader
from offrl_contract.robot import Signal

from offrl_data.bags import CLOCK_TOPIC, Bag
from offrl_data.decoder import Decoder
from offrl_data.message_definitions import MessageDefinitions

Times = NDArray[np.int64]

_TYPE = "rosgraph_msgs/msg/Clock"
_FIELDS = ("clock.sec", "clock.nanosec")


@dataclass(frozen=True)
class SimTime:
    """The newest /clock message at each time."""

    received: Times
    """(n,) when each came [ns], in order."""
    clock: Times
    """(n,) what it said [ns]."""

    def at(self, received: Times) -> Times:
        """Return the simulated time (m,) at receive times (m,) [ns]; 0 before the first."""
        newest = np.searchsorted(self.received, received, side="right") - 1
        return np.where(newest < 0, 0, self.clock[np.maximum(newest, 0)])

    @property
    def summary(self) -> str:
        """How fast simulated time went."""
        simulated, real = (float(each[-1] - each[0]) / 1e9 for each in (self.clock, self.received))
        return f"timed by {CLOCK_TOPIC}: {simulated:.1f} s of simulated time in {real:.1f} s"


def read_sim_time(bag: Bag, definitions: MessageDefinitions) -> SimTime:
    """Read /clock. Raises InputError where there is none, or it goes backwards."""
    if CLOCK_TOPIC not in bag.topics:
        raise InputError(
            f"{bag.name}: --sim-time: no topic {CLOCK_TOPIC}.{nearest(CLOCK_TOPIC, bag.topics)}"
        )
    topic = bag.topic(CLOCK_TOPIC, _TYPE)
    store, _ = definitions.of(topic, bag.name)
    signal = Signal(name="clock", topic=CLOCK_TOPIC, type=_TYPE, field=_FIELDS, clock="receive")
    decoder = Decoder(topic, {"clock": TermReader(signal, store)}, store)
    received, values = [np.zeros(0, np.int64)], [np.zeros((0, 2))]
    for _, block in bag.blocks([CLOCK_TOPIC]):
        batch = block.pick(np.arange(len(block.received)))
        received.append(block.received)
        values.append(decoder.decode(batch)[0]["clock"])
    came, said = np.concatenate(received), np.concatenate(values)
    known = np.isfinite(said).all(axis=1)
    order = np.argsort(came[known], kind="stable")
    came, seconds = came[known][order], said[known][order].astype(np.int64)
    if not len(came):
        raise InputError(f"{bag.name}: --sim-time: {CLOCK_TOPIC} has no message that can be read")
    clock = seconds[:, 0] * 1_000_000_000 + seconds[:, 1]
    backwards = np.flatnonzero(np.diff(clock) < 0)
    if len(backwards):
        step = float(clock[backwards[0] + 1] - clock[backwards[0]]) / 1e9
        raise InputError(
            f"{bag.name}: --sim-time: {CLOCK_TOPIC} goes backwards {len(backwards)} times, first "
            f"by {-step:.3f} s: the simulator was reset. Record one bag per run."
        )
    return SimTime(came, clock)
