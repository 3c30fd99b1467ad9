"""What the robot's own sampler and the robot file's expressions make of an episode's messages."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from offrl_contract.live import Live
from offrl_contract.rewards import rewards_and_terminals
from offrl_contract.robot import Robot

from offrl_sim import messages
from offrl_sim.simulation import Delivery

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """What is known at a tick."""

    vector: NDArray[np.float32]
    """(o,) observation, SI units."""
    terms: dict[str, Floats]
    """Observation terms and signals by name, (1, w) each."""
    fault: str
    """The first term that is not usable, in words; empty where all are."""


class Scorer:
    """Hears the messages of an episode and gives observations, rewards and terminals."""

    def __init__(self, robot: Robot) -> None:
        """Compile the readers. Raises InputError where a field is not in its message.

        The node stops for a blind sensor; here an episode goes on, for drivers to learn from it.
        """
        self._robot = robot.without_checks()
        self._live = Live(self._robot, messages.definitions(), signals=True)

    def reset(self) -> None:
        """Forget the last episode."""
        self._live.reset()

    def hear(self, delivery: Delivery) -> None:
        """Take a message."""
        self._live.push(delivery.topic, delivery.stamp, delivery.message)

    def begin(self, tick: int) -> Seen:
        """Return what is seen at the episode's first tick [ns]."""
        self._seen = self._observe(tick)
        return self._seen

    def advance(self, tick: int, action: Floats) -> tuple[Seen, float, bool]:
        """Return what is seen at the next tick [ns], the reward and whether the task has ended.

        `action` (a,) was in force in between.
        """
        then = self._observe(tick)
        rewards, terminals = rewards_and_terminals(
            self._robot, self._seen.terms, then.terms, action[None]
        )
        self._seen = then
        return then, float(rewards[0]), bool(terminals[0])

    def _observe(self, tick: int) -> Seen:
        observation = self._live.observe(tick)
        samples = observation.terms | self._live.signals(tick)
        return Seen(
            vector=observation.vector,
            terms={name: sample.values for name, sample in samples.items()},
            fault=observation.faults[0].text if observation.faults else "",
        )
