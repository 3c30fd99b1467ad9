"""The robot file: one YAML that is the whole interface between bag, simulator and robot."""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from typing import Annotated

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from offrl_contract.errors import InputError
from offrl_contract.expression import Expression, parse
from offrl_contract.terms import (
    CLOCKS,
    ActionTerm,
    Clock,
    Interval,
    ObservationTerm,
    Signal,
    Spec,
    Term,
)

TRANSFORM_TOPICS = ("/tf", "/tf_static")
TRANSFORM_TYPE = "tf2_msgs/msg/TFMessage"

__all__ = [
    "CLOCKS",
    "ActionTerm",
    "Clock",
    "Episode",
    "ObservationTerm",
    "Robot",
    "Signal",
    "Spec",
    "Term",
]


class Episode(Spec):
    """How a log is cut into episodes."""

    gap: PositiveFloat = 1.0
    """A pause in the log longer than this ends the episode [s]."""
    min_length: PositiveInt = 10
    """Shorter episodes are dropped [ticks]."""


class Robot(Spec):
    """A robot file: what the policy sees, what it commands, what is rewarded."""

    robot: str
    """Name of the robot."""
    rate: PositiveFloat
    """Control rate [Hz]: one transition per tick."""
    clock: Clock = "receive"
    """Time base of all terms: when a message was received or published, or its header stamp."""
    observation: Annotated[tuple[ObservationTerm, ...], Field(min_length=1)]
    """Terms in the order of the observation vector."""
    action: Annotated[tuple[ActionTerm, ...], Field(min_length=1)]
    """Terms in the order of the action vector."""
    signals: tuple[Signal, ...] = ()
    """Terms read for reward and terminal only."""
    reward: str
    """Reward of a transition: `name` at tick k, `next_name` at tick k+1."""
    terminal: str = "False"
    """Whether the task ended with this transition."""
    episode: Episode = Episode()
    """How a log is cut into episodes."""

    @model_validator(mode="after")
    def _check_names(self) -> "Robot":
        seen: dict[str, str] = {}
        for group in ("observation", "action", "signals"):
            terms: tuple[Term | ActionTerm, ...] = getattr(self, group)
            for index, term in enumerate(terms):
                where = f"{group}[{index}].name"
                parts = [f"{term.name}_{part}" for part in range(self.width(term))]
                for name in [term.name, *parts]:
                    if name in seen:
                        raise ValueError(f"{where}: '{name}' is already named by {seen[name]}")
                    seen[name] = where
        self.reward_expression, self.terminal_expression  # noqa: B018  (parsed now, kept)
        return self

    @cached_property
    def reward_expression(self) -> Expression:
        """The reward, parsed and checked."""
        return parse(self.reward, self.expression_names, "reward")

    @cached_property
    def terminal_expression(self) -> Expression:
        """The terminal condition, parsed and checked."""
        return parse(self.terminal, self.expression_names, "terminal")

    @property
    def expression_names(self) -> frozenset[str]:
        """Names that reward and terminal may use."""
        names: set[str] = set()
        terms: tuple[Term | ActionTerm, ...] = (*self.observation, *self.signals, *self.action)
        for term in terms:
            own = {term.name, *(f"{term.name}_{part}" for part in range(self.width(term)))}
            names |= own
            if not isinstance(term, ActionTerm):
                names |= {f"next_{name}" for name in own}
        return frozenset(names)

    @property
    def period(self) -> int:
        """Time between ticks [ns]."""
        return round(1e9 / self.rate)

    @property
    def observation_size(self) -> int:
        """Length o of the observation vector."""
        return sum(self.width(term) for term in self.observation)

    @property
    def action_size(self) -> int:
        """Length a of the action vector."""
        return sum(term.parts for term in self.action)

    @property
    def limits(self) -> tuple[Interval, ...]:
        """[low, high] per entry of the action vector."""
        return tuple(limit for term in self.action for limit in term.limits)

    @property
    def safe_action(self) -> tuple[float, ...]:
        """The command that is safe at any time."""
        return tuple(value for term in self.action for value in term.safe)

    @property
    def max_rate(self) -> tuple[float, ...]:
        """Largest change per second, per entry of the action vector; inf where not limited."""
        return tuple(
            rate for term in self.action for rate in (term.max_rate or (float("inf"),) * term.parts)
        )

    def width(self, term: Term | ActionTerm) -> int:
        """Return how many numbers a term adds to its vector."""
        if not isinstance(term, ObservationTerm):
            return term.parts
        parts = self.action_size if term.source == "action" else term.parts
        return parts * term.history

    @property
    def observation_slices(self) -> dict[str, slice]:
        """Where each term lies in the observation vector, by name."""
        ends = accumulate(self.width(term) for term in self.observation)
        return {
            term.name: slice(end - self.width(term), end)
            for term, end in zip(self.observation, ends, strict=True)
        }

    def clock_of(self, term: Term) -> Clock:
        """Return the time base of a term."""
        return term.clock or self.clock

    def read_terms(self) -> Iterator[ObservationTerm | Signal]:
        """Yield the observation terms and signals that are read from topics."""
        for term in self.observation:
            if term.source == "topic":
                yield term
        yield from self.signals

    def topics(self, signals: bool = True) -> dict[str, str]:
        """Return message type by topic: of observation and action, of signals if asked, /tf.

        Raises InputError where one topic has two types.
        """
        terms = [term for term in self.read_terms() if signals or not isinstance(term, Signal)]
        found: dict[str, str] = {}
        for term in (*terms, *self.action):
            if found.setdefault(term.topic, term.type) != term.type:
                raise InputError(
                    f"robot '{self.robot}': topic {term.topic} has two types, "
                    f"{found[term.topic]} and {term.type}"
                )
        if any(term.frame for term in terms):
            found |= dict.fromkeys(TRANSFORM_TOPICS, TRANSFORM_TYPE)
        return found

    def required_topics(self, signals: bool = True) -> dict[str, str]:
        """Return those of `topics` without which a log is of no use.

        Of /tf and /tf_static, a log may lack either.
        """
        found = self.topics(signals).items()
        return {topic: kind for topic, kind in found if topic not in TRANSFORM_TOPICS}

    def to_yaml(self) -> str:
        """Return the canonical text: defaults left out, so that it names each choice once."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)

    def digest(self) -> str:
        """Return the identity of the content (16 hex digits), blind to comments and layout."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
