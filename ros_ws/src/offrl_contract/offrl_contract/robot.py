"""The robot file: one YAML that is the whole interface between bag, simulator and robot."""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from offrl_contract.errors import InputError
from offrl_contract.expression import Expression, parse
from offrl_contract.python_function import PythonFunction
from offrl_contract.terms import (
    CLOCKS,
    MOST,
    ActionTerm,
    Clock,
    Collision,
    Count,
    ImageTerm,
    Interval,
    ObservationTerm,
    Rate,
    Seconds,
    Signal,
    Spec,
    Term,
    check_topic,
)
from offrl_contract.yaml_text import to_yaml

TRANSFORM_TOPICS = ("/tf", "/tf_static")
TRANSFORM_TYPE = "tf2_msgs/msg/TFMessage"

__all__ = [
    "CLOCKS",
    "ActionTerm",
    "Clock",
    "Collision",
    "Episode",
    "ImageTerm",
    "ObservationTerm",
    "Robot",
    "Signal",
    "Spec",
    "Term",
]


_PYTHON = "python:"


class EpisodeTopic(Spec):
    """A topic that says when an episode runs, begins or ends."""

    topic: str
    """Topic, with leading slash."""
    type: str
    """Message type, as package/msg/Name."""
    field: str = ""
    """Field that is not 0 where it holds; where not given, every message is an event."""

    @model_validator(mode="after")
    def _check_topic(self) -> "EpisodeTopic":
        check_topic(self.topic, self.type)
        return self


class Episode(Spec):
    """How a log is cut into episodes."""

    gap: Seconds = 1.0
    """A pause in the log longer than this ends the episode [s]."""
    min_length: Count = 10
    """Shorter episodes are dropped [ticks]."""
    max_length: Count | None = None
    """Longer episodes are cut, as by a timeout [ticks]."""
    running: EpisodeTopic | None = None
    """An episode runs while the newest message's field is not 0."""
    start: EpisodeTopic | None = None
    """A message, or a field that turns from 0 to another value, begins an episode; before the
    first there is none."""
    stop: EpisodeTopic | None = None
    """Ends an episode, likewise; with `start`, there is none until the next begins."""

    @model_validator(mode="after")
    def _check_topics(self) -> "Episode":
        if self.max_length is not None and self.max_length < self.min_length:
            raise ValueError(f"max_length: {self.max_length} is below min_length")
        if self.running and not self.running.field:
            raise ValueError("running.field: missing")
        return self

    @property
    def topics(self) -> dict[str, EpisodeTopic]:
        """Those given, by key."""
        found = {key: getattr(self, key) for key in ("running", "start", "stop")}
        return {key: topic for key, topic in found.items() if topic}


class Robot(Spec):
    """A robot file: what the policy sees, what it commands, what is rewarded."""

    robot: str
    """Name of the robot."""
    rate: Rate
    """Control rate [Hz]: one transition per tick."""
    clock: Clock = "receive"
    """Time base of all terms: when a message was received or published, or its header stamp."""
    observation: Annotated[tuple[ObservationTerm, ...], Field(min_length=1)]
    """Terms in the order of the observation vector."""
    action: Annotated[tuple[ActionTerm, ...], Field(min_length=1)]
    """Terms in the order of the action vector."""
    signals: tuple[Signal, ...] = ()
    """Terms read for reward and terminal only."""
    images: tuple[ImageTerm, ...] = ()
    """Camera images stored beside the observation vectors."""
    reward: str
    """Reward of a transition: an expression of `name` at tick k and `next_name` at tick k+1, or
    {topic, type, field} for its value at tick k+1, or {python: "module:function"}."""
    terminal: str = "False"
    """Whether the task ended with this transition; written as the reward is."""
    episode: Episode = Episode()
    """How a log is cut into episodes."""

    @model_validator(mode="after")
    def _check_names(self) -> "Robot":
        if self.observation_size > MOST:
            raise ValueError(f"observation: {self.observation_size} numbers, more than {MOST}")
        if all(term.source == "action" for term in self.observation):
            raise ValueError("observation: needs a term that is read from a topic")
        seen: dict[str, str] = {}
        for group in ("observation", "action", "signals", "images"):
            terms: tuple[Term | ActionTerm | ImageTerm, ...] = getattr(self, group)
            for index, term in enumerate(terms):
                where = f"{group}[{index}].name"
                width = 0 if isinstance(term, ImageTerm) else self.width(term)
                parts = [f"{term.name}_{part}" for part in range(width)]
                for name in [term.name, *parts]:
                    if name in seen:
                        raise ValueError(f"{where}: '{name}' is already named by {seen[name]}")
                    seen[name] = where
        self.reward_rule, self.terminal_rule  # noqa: B018  (parsed now, kept)
        return self

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, content: Any) -> Any:
        """Turn a reward or terminal of a topic into a signal, one in Python into its name."""
        if not isinstance(content, dict):
            return content
        content = dict(content)
        for key, text in (("reward", "next_reward_0"), ("terminal", "next_terminal_0 != 0")):
            rule = content.get(key)
            if not isinstance(rule, dict):
                continue
            if set(rule) == {"python"}:
                content[key] = f"{_PYTHON}{rule['python']}"
                continue
            wrong = sorted(map(str, set(rule) - {"topic", "type", "field", "max_age"}))
            if wrong:
                raise ValueError(
                    f"{key}: unknown key '{wrong[0]}'. It is an expression, "
                    "{topic, type, field} or {python: module:function}."
                )
            content[key] = text
            signals = content.get("signals") or ()
            if isinstance(signals, (list, tuple)):
                content["signals"] = [*signals, {"name": key, **rule}]
        return content

    @cached_property
    def reward_rule(self) -> Expression | PythonFunction:
        """The reward, parsed and checked."""
        return self._rule(self.reward, "reward")

    @cached_property
    def terminal_rule(self) -> Expression | PythonFunction:
        """The terminal condition, parsed and checked."""
        return self._rule(self.terminal, "terminal")

    @property
    def scored_terms(self) -> frozenset[str]:
        """Observation terms and signals that reward or terminal ask for."""
        terms = frozenset(term.name for term in (*self.observation, *self.signals))
        rules = (self.reward_rule, self.terminal_rule)
        if any(isinstance(rule, PythonFunction) for rule in rules):
            return terms
        asked = {name for rule in rules if isinstance(rule, Expression) for name in rule.names}
        asked |= {name.removeprefix("next_") for name in asked}
        return terms & (asked | {name.rpartition("_")[0] for name in asked})

    def python_sources(self) -> list[dict[str, bytes]]:
        """Return the text by module of those that reward and terminal are in, and import."""
        rules = (self.reward_rule, self.terminal_rule)
        return [rule.sources() for rule in rules if isinstance(rule, PythonFunction)]

    def _rule(self, text: str, key: str) -> Expression | PythonFunction:
        if not text.startswith(_PYTHON):
            widths = self.expression_widths
            expression = parse(text, frozenset(widths), key)
            expression({name: np.zeros((1, width)) for name, width in widths.items()})
            return expression
        name = text.removeprefix(_PYTHON)
        module, _, function = name.partition(":")
        if not function.isidentifier() or not all(p.isidentifier() for p in module.split(".")):
            raise ValueError(f"{key}: '{name}' is not module:function")
        return PythonFunction(name, key)

    @property
    def expression_widths(self) -> dict[str, int]:
        """How many numbers each name has that reward and terminal may use."""
        widths: dict[str, int] = {}
        terms: tuple[Term | ActionTerm, ...] = (*self.observation, *self.signals, *self.action)
        for term in terms:
            width = self.width(term)
            own = {term.name: width} | {f"{term.name}_{part}": 1 for part in range(width)}
            widths |= own
            if not isinstance(term, ActionTerm):
                widths |= {f"next_{name}": each for name, each in own.items()}
        return widths

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

    def without_checks(self) -> "Robot":
        """Return the robot without `max_missing` and `collision`."""
        free = {"max_missing": None}
        observation = tuple(
            term.model_copy(update={**free, "collision": None}) for term in self.observation
        )
        signals = tuple(signal.model_copy(update=free) for signal in self.signals)
        return self.model_copy(update={"observation": observation, "signals": signals})

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
        return to_yaml(content)

    def digest(self) -> str:
        """Return the identity of the content (16 hex digits), blind to comments and layout."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
