"""One tick of the policy: sample, check, run, gate, limit. No ROS here; time is an argument."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError
from offrl_contract.definitions import from_texts
from offrl_contract.live import Live, Observation
from offrl_contract.reader import MalformedMessageError, Message
from offrl_contract.robot import TRANSFORM_TOPICS

from offrl_policy.collisions import Collisions
from offrl_policy.gate import Gate, GateSettings, State
from offrl_policy.limits import Limiter
from offrl_policy.policy_file import Policy
from offrl_policy.record import Inputs, Keyframe, Record, Snapshot, Timed, Values, digest

Array = NDArray[np.float64]
Fallback = Literal["stop", "hold", "topic"]
SOON, LATE = 0.5, 1.5
"""Periods after the tick before; between them, the models of a step may judge."""
DRIVING = (State.NOMINAL, State.CAUTION)
STOPPING = ("stop", "brake")


@dataclass(frozen=True)
class Settings:
    """Parameters of the controller."""

    gate: GateSettings = field(default_factory=GateSettings)
    fallback: Fallback = "stop"
    """What drives in FALLBACK: ramp to the safe command, hold the last one, a backup's topic."""
    hold_time: float = 0.5
    """How long `hold` holds before it stops [s]."""
    blend_time: float = 0.3
    """Length of the hand-over from one driver to the next [s]."""
    caution_scale: float = 1.0
    """Share of the action beyond the safe command that is kept in CAUTION."""
    overruns: int = 3
    """So many late ticks in a row hand over to the fallback."""


@dataclass(frozen=True)
class Decision:
    """The outcome of a tick."""

    tick: int
    """[ns]"""
    state: State
    reason: str
    command: Array
    """(a,), inside the limits."""
    observation: Observation
    levels: dict[str, float]
    """Score over threshold."""
    inputs: Inputs
    """What the controller was told since the tick before."""

    @property
    def ages(self) -> dict[str, int]:
        """How old the sample of each term is [ns]; -1 where there is none."""
        return {name: int(each.ages[0]) for name, each in self.observation.terms.items()}

    def stopped(self, reason: str) -> "Decision":
        """Return this one after a stop between ticks."""
        return replace(self, state=State.STOP, reason=reason)


class Controller:
    """Turns messages into commands behind the gate."""

    def __init__(self, policy: Policy, settings: Settings) -> None:
        self.policy = policy
        self.settings = settings
        self.live = Live(policy.robot, from_texts(policy.definitions, str(policy.path)))
        self.gate = Gate(policy.gate, settings.gate)
        self.limiter = Limiter(policy.robot)
        self.collisions = Collisions(policy.robot)
        self.fault = ""
        """A fault found outside the tick, such as a changed definition; STOP while it is set."""
        self.inputs = Inputs()
        self.late = 0
        """Late ticks in a row."""
        self._backup: tuple[int, Array] | None = None
        self._memory = policy.initial_memory
        self._safe: Array = np.array(policy.robot.safe_action)
        self._last_tick: int | None = None
        self._told = 0
        """The latest time of a message [ns]."""
        self._malformed = ""
        """What was wrong with a message since the last tick, that no term tells."""
        self._driver = "stop"
        self._engaged = True
        self._from: Array = self._safe
        self._handed_over = 0
        self._last_driven: tuple[int, Array] | None = None
        self._ahead = ""

    def push(
        self, topic: str, stamp: int, content: bytes | Message, published: int | None = None
    ) -> None:
        """Take a message received at `stamp` [ns] and sent at `published` [ns], or at once."""
        if isinstance(content, bytes):
            self.inputs.messages[topic].append((stamp, published, digest(content)))
        self._told = max(self._told, stamp)
        try:
            self.live.push(topic, stamp, content, published)
        except MalformedMessageError as error:
            if topic not in TRANSFORM_TOPICS:  # those age
                self._malformed = str(error)

    def sent(self, stamp: int, command: Array, messages: Mapping[str, Message]) -> None:
        """Take the command (a,) that was just published, and its messages by topic."""
        self.inputs.sent.append((stamp, tuple(command.tolist())))
        for topic, message in messages.items():
            self.push(topic, stamp, message)

    def back_up(self, stamp: int, command: Sequence[float]) -> None:
        """Take the command (a,) of the backup controller, received at `stamp` [ns].

        One that is not finite, or () in a record, leaves none.
        """
        values = np.array(command, np.float64)
        self._told = max(self._told, stamp)
        usable = values.size > 0 and bool(np.isfinite(values).all())
        self.inputs.backup = (stamp, _numbers(values) if usable else ())
        self._backup = (stamp, self.limiter.inside(values)) if usable else None

    def stop(self, reason: str) -> None:
        """Go to STOP until the next tick, which drives off from the safe command."""
        self.inputs.stop = reason
        self.gate.stop(reason)
        self.limiter.follow(self._safe)
        self._driver, self._last_driven = "stop", None

    def reset(self) -> None:
        """Release a latched FALLBACK."""
        self.inputs.reset = True
        self.gate.reset()

    def change(self, settings: Settings) -> None:
        """Go on with other settings."""
        self.settings = settings
        self.gate.settings = settings.gate

    def clock_jumped_back(self, now: int) -> bool:
        """Forget everything if time ran backwards; return whether it did.

        Before the last tick, or by more than a period before a message.
        """
        last = now if self._last_tick is None else self._last_tick
        if now >= last and now >= self._told - self.policy.robot.period:
            return False
        self._told = now
        self.live.reset()
        self.collisions.approaches.clear()
        self._backup = None
        self._last_tick = None
        self._last_driven = None
        self.gate.stop("the clock jumped back")
        return True

    def tick(self, now: int, engaged: bool = True) -> Decision:
        """Decide on the command at `now` [ns]; not engaged, follow whoever drives instead."""
        robot = self.policy.robot
        commanded = True
        if not (engaged and self._engaged):
            other = self.live.actions(now)
            commanded = not other.faults[0]
            self.limiter.follow(other.values[0] if commanded else self._safe)
            self._driver = "another"  # to engage is a hand-over
            self._last_driven = None
        self._engaged = engaged
        elapsed = 1.0 / robot.rate if self._last_tick is None else (now - self._last_tick) / 1e9
        judged = commanded and SOON < elapsed * robot.rate < LATE
        if elapsed * robot.rate >= LATE:
            self.gate.restart_dwell()
        self._memory = self.policy.remember(self._memory, self.limiter.last if judged else None)
        self._last_tick = now
        self._ahead, malformed, self._malformed = "", self._malformed, ""
        observation = self.live.observe(now)
        action = self._judge(now, observation, self.fault or malformed)
        target = self._target(now, action)
        command = self.limiter.step(target, elapsed)
        state, reason = self.gate.state, self.gate.reason
        if self._driver == "policy":
            self._last_driven = (now, command)
        elif self._driver in STOPPING:  # what drove before is over, and nothing to hold
            self._last_driven = None
        if self._driver == "brake":  # the gate goes on watching
            state, reason = State.STOP, self._ahead
        levels = dict(self.gate.levels)
        inputs, self.inputs = self.inputs, Inputs()
        inputs.engaged, inputs.late, inputs.fault = engaged, self.late, self.fault
        return Decision(now, state, reason, command, observation, levels, inputs)

    def record(
        self, decision: Decision, session: str, count: int, topics: Mapping[str, str] | None
    ) -> Record:
        """Return the record of the tick that was just decided; `topics` make it a keyframe."""
        inputs = decision.inputs
        keyframe = topics and Keyframe(
            policy=self.policy.checksum,
            settings=asdict(self.settings),
            topics=dict(topics),
            after=self.snapshot(),
        )
        return Record(
            session=session,
            count=count,
            tick=decision.tick,
            engaged=inputs.engaged,
            late=inputs.late,
            fault=inputs.fault,
            messages={topic: tuple(each) for topic, each in inputs.messages.items()},
            sent=tuple(inputs.sent),
            backup=inputs.backup,
            reset=inputs.reset,
            stop=inputs.stop,
            state=decision.state.value,
            reason=decision.reason,
            command=_numbers(decision.command),
            levels=decision.levels,
            ages=decision.ages,
            keyframe=keyframe or None,
        )

    def snapshot(self) -> Snapshot:
        """Return everything that the next tick depends on, but for the messages."""
        return Snapshot(
            gate=self.gate.snapshot(),
            last_command=_numbers(self.limiter.last),
            last_tick=self._last_tick,
            driver=self._driver,
            origin=_numbers(self._from),
            handed_over=self._handed_over,
            last_driven=_timed(self._last_driven),
            engaged=self._engaged,
            backup=_timed(self._backup),
            memory=tuple(map(_numbers, self._memory)),
            approaches=dict(self.collisions.approaches),
        )

    def restore(self, known: Snapshot) -> None:
        """Go on from a snapshot."""
        self.gate.restore(known.gate)
        self.limiter.last = np.array(known.last_command)
        self._last_tick = known.last_tick
        self._driver, self._from = known.driver, np.array(known.origin)
        self._handed_over, self._engaged = known.handed_over, known.engaged
        self._last_driven = known.last_driven and (
            known.last_driven[0],
            np.array(known.last_driven[1]),
        )
        self._backup = known.backup and (known.backup[0], np.array(known.backup[1]))
        self.collisions.approaches = dict(known.approaches)
        self._memory = tuple(
            np.array(values, np.float32).reshape(like.shape)
            for values, like in zip(known.memory, self.policy.initial_memory, strict=True)
        )

    def _judge(self, now: int, observation: Observation, fault: str) -> Array:
        """Run the checks, the network and the gate; return the action, safe where there is none.

        A recurrent policy begins anew where the gate does: after STOP, and as it leaves FALLBACK.
        """
        if self.gate.state is State.STOP:
            self._memory = self.policy.initial_memory
        if fault or observation.faults:
            self.gate.stop(fault or "; ".join(each.text for each in observation.faults))
            return self._safe
        self._ahead = self.collisions.check(now, observation, self.live)
        try:
            action, uncertainty, memory = self.policy.run(observation.vector, self._memory)
        except InputError as error:
            self.gate.stop(str(error))
            return self._safe
        scores = uncertainty.tolist()
        if not all(np.isfinite(each).all() for each in (action, uncertainty, *memory)):
            self.gate.stop("policy: output not finite")
            return self._safe
        was = self.gate.state
        self.gate.step(now, scores)
        left_fallback = was is State.FALLBACK and self.gate.state in DRIVING
        self._memory = self.policy.initial_memory if left_fallback else memory
        if self.late >= self.settings.overruns:
            rate = self.policy.robot.rate
            self.gate.fall_back(f"{self.late} ticks behind: too slow for {rate:g} Hz")
        return self.limiter.inside(action.astype(np.float64))

    def _target(self, now: int, action: Array) -> Array:
        """Return what the driver of this state asks for, blended in after a hand-over."""
        driver, target = self._source(now, action)
        if self._ahead and driver != "stop":
            driver, target = "brake", self._safe
        if driver != self._driver:
            self._driver, self._from, self._handed_over = driver, self.limiter.last, now
        if driver in STOPPING:  # never slowed down by a blend
            return target
        blend = self.settings.blend_time * 1e9
        share = min((now - self._handed_over) / blend, 1.0) if blend > 0 else 1.0
        return (1.0 - share) * self._from + share * target

    def _source(self, now: int, action: Array) -> tuple[str, Array]:
        """Return the name and the wish of whoever drives."""
        state, settings = self.gate.state, self.settings
        if state is State.NOMINAL:
            return "policy", action
        if state is State.CAUTION:
            return "policy", self._safe + settings.caution_scale * (action - self._safe)
        if state is State.FALLBACK and settings.fallback == "hold" and self._last_driven:
            since, held = self._last_driven
            if now - since <= settings.hold_time * 1e9:
                return "hold", held
        if state is State.FALLBACK and settings.fallback == "topic" and self._backup:
            stamp, command = self._backup
            fresh = 0 <= now - stamp <= min(t.hold for t in self.policy.robot.action) * 1e9
            if fresh:
                return "topic", command
        return "stop", self._safe


def _numbers(values: NDArray[Any]) -> Values:
    return tuple(values.ravel().tolist())


def _timed(command: tuple[int, Array] | None) -> Timed | None:
    return command and (command[0], _numbers(command[1]))
