"""The robot file: one YAML that is the whole interface between bag, simulator and robot."""

import hashlib
import json
import keyword
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from offrl_contract.errors import InputError
from offrl_contract.expression import FUNCTIONS, Expression, parse

Clock = Literal["receive", "header"]
Interval = tuple[float, float]


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class Spec(BaseModel):
    """Base of every part of a robot file: frozen, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class Term(Spec):
    """A named vector read from one topic."""

    name: str
    """Name used in expressions and reports; its parts are name_0, name_1, ..."""
    topic: str = ""
    """Topic, with leading slash."""
    type: str = ""
    """Message type, as package/msg/Name."""
    field: Names = ()
    """Field path or list of paths, dots between names, as in twist.twist.linear.x."""
    select: Names = ()
    """Entries to pick from an array by the message's `name` array (JointState)."""
    size: PositiveInt | None = None
    """Length of an array field that is taken whole."""
    bins: PositiveInt | None = None
    """Reduce an array field of any length to this many equal parts (LaserScan)."""
    reduce: Literal["min", "mean", "max"] = "min"
    """How a bin is reduced; NaN and readings below range_min are left out."""
    yaw: bool = False
    """The field is a quaternion: turn it into the heading about z [rad]."""
    wrap: bool = False
    """Wrap angles into [-pi, pi)."""
    clip: Interval | None = None
    """Limit values to [low, high] in the unit of the field; inf becomes high."""
    max_age: PositiveFloat = 0.5
    """Oldest acceptable sample [s]."""
    clock: Clock | None = None
    """Time base of this term: receive or header; the robot's `clock` where not given."""

    @model_validator(mode="after")
    def _check_term(self) -> "Term":
        _check_name(self.name)
        if self.clip and self.clip[0] >= self.clip[1]:
            raise ValueError("clip: the lower end must be below the upper end")
        given = [key for key in ("select", "size", "bins", "yaw") if getattr(self, key)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        return self

    @property
    def parts(self) -> int:
        """Numbers per sample, before history."""
        per_field = 1 if self.yaw else self.bins or self.size or len(self.select) or 1
        return per_field * len(self.field)


class ObservationTerm(Term):
    """A part of the observation vector."""

    source: Literal["topic", "action"] = "topic"
    """`action`: the command in force when the tick begins, instead of a topic."""
    history: PositiveInt = 1
    """Stack the values at this many ticks, the oldest first."""

    @model_validator(mode="after")
    def _check_source(self) -> "ObservationTerm":
        if self.source == "topic":
            _require(self, "topic", "type", "field")
        else:
            given = {"topic", "type", "field", "select", "size", "bins", "yaw"} & _given(self)
            if given:
                raise ValueError(f"source: action takes no {', '.join(sorted(given))}")
        return self


class Signal(Term):
    """Read for reward and terminal only, never seen by the policy."""

    @model_validator(mode="after")
    def _check_source(self) -> "Signal":
        _require(self, "topic", "type", "field")
        return self


class ActionTerm(Spec):
    """A part of the action vector, published as fields of one message."""

    name: str
    """Name used in expressions and reports."""
    topic: str
    """Command topic; terms with the same topic share one message."""
    type: str
    """Message type, as package/msg/Name."""
    field: Names
    """Field paths in the order of the action vector."""
    limits: tuple[Interval, ...]
    """[low, high] per field, in the unit of the field."""
    max_rate: tuple[PositiveFloat, ...] | None = None
    """Largest change per second, per field."""
    hold: PositiveFloat = 0.5
    """How long a command stays in force without a new one [s]."""
    safe: tuple[float, ...]
    """Command that is safe at any time, per field."""

    @model_validator(mode="after")
    def _check_lengths(self) -> "ActionTerm":
        _check_name(self.name)
        for key in ("limits", "safe", "max_rate"):
            value = getattr(self, key)
            if value is not None and len(value) != len(self.field):
                raise ValueError(f"{key}: {len(value)} entries for {len(self.field)} fields")
        for (low, high), safe, field in zip(self.limits, self.safe, self.field, strict=True):
            if low >= high:
                raise ValueError(f"limits of {field}: {low} is not below {high}")
            if not low <= safe <= high:
                raise ValueError(f"safe: {safe} for {field} is outside its limits [{low}, {high}]")
        return self

    @property
    def parts(self) -> int:
        """Numbers this term adds to the action vector."""
        return len(self.field)


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
    """Time base of all terms: when a message was received, or its header stamp."""
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
        """Return message type by topic, over observation, action and (if asked) signals."""
        terms = [term for term in self.read_terms() if signals or not isinstance(term, Signal)]
        found: dict[str, str] = {}
        for term in (*terms, *self.action):
            if found.setdefault(term.topic, term.type) != term.type:
                raise InputError(
                    f"robot '{self.robot}': topic {term.topic} has two types, "
                    f"{found[term.topic]} and {term.type}"
                )
        return found

    def to_yaml(self) -> str:
        """Return the canonical text: defaults left out, so that it names each choice once."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)

    def digest(self) -> str:
        """Return the identity of the content (16 hex digits), blind to comments and layout."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _check_name(name: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("next_"):
        raise ValueError(f"name: '{name}' must be an identifier that does not begin with next_")
    if name in FUNCTIONS:
        raise ValueError(f"name: '{name}' is a function of the expressions")


def _given(term: Term) -> set[str]:
    return {key for key in type(term).model_fields if getattr(term, key)}


def _require(term: Term, *keys: str) -> None:
    for key in keys:
        if not getattr(term, key):
            raise ValueError(f"{key}: missing")
    if not term.topic.startswith("/"):
        raise ValueError(f"topic: '{term.topic}' must begin with a slash")
    if term.type.count("/") != 2:
        raise ValueError(f"type: '{term.type}' must be package/msg/Name")
