"""The robot file: one YAML that is the whole interface between bag, simulator and robot."""

import difflib
import hashlib
import json
import keyword
from collections.abc import Iterator
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from offrl_contract.errors import InputError, nearest
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


def robot_from_yaml(text: str, source: str) -> Robot:
    """Build a robot from YAML text; `source` names it in errors. Raises InputError."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{source}: a robot file is a mapping with robot, rate, observation, ...")
    try:
        return Robot.model_validate(content)
    except ValidationError as error:
        found = error.errors()
        inner = {entry["loc"][:depth] for entry in found for depth in range(len(entry["loc"]))}
        lines = [f"{source}: {_explain(e)}" for e in found if not e["loc"] or e["loc"] not in inner]
        raise InputError("\n".join(dict.fromkeys(lines))) from error
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def load_robot(file: str | Path) -> Robot:
    """Load a robot file, or a shipped one by its name. Raises InputError."""
    path = Path(file)
    if path.is_file():
        try:
            return robot_from_yaml(path.read_text(), path.name)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
    shipped = {
        entry.name.removesuffix(".yaml"): entry
        for entry in files("offrl_contract").joinpath("robots").iterdir()
        if entry.name.endswith(".yaml")
    }
    if str(file) in shipped:
        return robot_from_yaml(shipped[str(file)].read_text(), f"{file}.yaml")
    raise InputError(
        f"{file}: no such robot file, and no shipped robot of this name. Shipped: "
        f"{', '.join(sorted(shipped))}."
    )


def require_same(expected: Robot, given: Robot, expected_name: str, given_name: str) -> None:
    """Raise InputError with the first differing line unless both robots have one digest."""
    if expected.digest() == given.digest():
        return
    mine, theirs = expected.to_yaml().splitlines(), given.to_yaml().splitlines()
    blocks = difflib.SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes()
    _, i, i_end, j, j_end = next(block for block in blocks if block[0] != "equal")
    lines = [f"- {line}" for line in mine[i:i_end][:1]]
    lines += [f"+ {line}" for line in theirs[j:j_end][:1]]
    raise InputError(
        f"{given_name} was made with another robot file than {expected_name} "
        f"({given.digest()} against {expected.digest()}). First difference "
        f"(- {expected_name}, + {given_name}):\n  " + "\n  ".join(lines)
    )


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


def _explain(entry: Any) -> str:
    """Turn one pydantic error into `observation[0].feild: unknown key. Did you mean 'field'?`."""
    location = entry["loc"]
    where = ""
    for part in location:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    if entry["type"] == "extra_forbidden":
        return f"{where}: unknown key.{nearest(str(location[-1]), _keys_at(location[:-1]))}"
    if entry["type"] == "missing":
        return f"{where}: missing."
    if entry["type"] == "value_error":
        return f"{where}: {entry['ctx']['error']}".removeprefix(": ")
    return f"{where}: {entry['msg']}, got {entry['input']!r}."


def _keys_at(location: tuple[int | str, ...]) -> set[str]:
    """Return the keys allowed at a location of the robot file."""
    groups: dict[str, type[Spec]] = {
        "observation": ObservationTerm,
        "action": ActionTerm,
        "signals": Signal,
        "episode": Episode,
    }
    model = groups[str(location[0])] if location else Robot
    return set(model.model_fields)
