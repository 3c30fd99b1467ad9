"""The terms of a robot file: what is read from a topic, and what is commanded."""

import keyword
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from offrl_contract.expression import FUNCTIONS

Clock = Literal["receive", "publish", "header"]
"""What times a message: its reception, its sending (DDS source time, mcap publish time), or the
header that its sender wrote."""
CLOCKS: tuple[Clock, ...] = get_args(Clock)
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")

MOST = 1_000_000
"""Entries of a vector, or ticks of an episode, beyond which a number is a slip."""


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"needs a number, not {value} (YAML reads yes, no, on, off so)")
    return value


Number = Annotated[float, BeforeValidator(_no_boolean)]
Positive = Annotated[Number, Field(gt=0.0)]
Rate = Annotated[Number, Field(ge=0.001, le=10_000.0)]
Seconds = Annotated[Number, Field(gt=0.0, le=1e9)]
Count = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1, le=MOST)]
Pixels = Annotated[Count, Field(le=10_000)]
Interval = tuple[Number, Number]
Share = Annotated[Number, Field(ge=0.0, lt=1.0)]
_TYPE = re.compile(r"[A-Za-z]\w*/(msg|srv|action)/[A-Za-z]\w*", re.ASCII)


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
    size: Count | None = None
    """Length of an array field that is taken whole."""
    bins: Count | None = None
    """Reduce an array field of any length to this many equal parts (LaserScan)."""
    reduce: Literal["min", "mean", "max"] = "min"
    """How a bin is reduced; NaN and readings below range_min are left out."""
    max_missing: Share | None = None
    """Largest share of an array's readings that may be NaN, infinite or out of range; with more of
    them the message is unusable, as one that is not finite. Any share where not given."""
    yaw: bool = False
    """The field is a quaternion: turn it into the heading about z [rad]."""
    wrap: bool = False
    """Wrap angles into [-pi, pi)."""
    frame: str = ""
    """Express the field, a Pose of a stamped message, in this frame: x, y [m] and yaw [rad]."""
    frame_max_age: Seconds = 0.5
    """Oldest acceptable transform of /tf on the way to `frame` [s]; /tf_static never ages."""
    clip: Interval | None = None
    """Limit values to [low, high] in the unit of the field; inf becomes high."""
    max_age: Seconds = 0.5
    """Oldest acceptable sample [s]."""
    clock: Clock | None = None
    """Time base of this term; the robot's `clock` where not given."""

    @model_validator(mode="after")
    def _check_term(self) -> "Term":
        _check_name(self.name)
        if self.clip and self.clip[0] >= self.clip[1]:
            raise ValueError("clip: the lower end must be below the upper end")
        given = [key for key in ("select", "size", "bins", "yaw", "frame") if getattr(self, key)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        if self.max_missing is not None and not (self.select or self.size or self.bins):
            raise ValueError("max_missing: takes an array, with select, size or bins")
        if self.frame and len(self.field) != 1:
            raise ValueError(f"frame: takes one field, a Pose, not {len(self.field)}")
        return self

    @property
    def parts(self) -> int:
        """Numbers per sample, before history."""
        if self.frame:
            return 3
        per_field = 1 if self.yaw else self.bins or self.size or len(self.select) or 1
        return per_field * len(self.field)


class Collision(Spec):
    """When the nearest thing will soon be too near."""

    range: Positive
    """How near to the sensor is too near [m]."""
    time: Seconds
    """How soon, at the speed at which the thing nears [s]."""
    noise: Annotated[Number, Field(ge=0.0)] = 0.02
    """An approach by less, within `max_age`, is none [m]."""


class ObservationTerm(Term):
    """A part of the observation vector."""

    source: Literal["topic", "action"] = "topic"
    """`action`: the command in force when the tick begins, instead of a topic."""
    history: Count = 1
    """Stack the values at this many ticks, the oldest first."""
    collision: Collision | None = None
    """The readings are distances: the node stops while the nearest thing will soon be too near."""

    @model_validator(mode="after")
    def _check_collision(self) -> "ObservationTerm":
        if self.collision and (self.yaw or self.wrap or self.frame):
            raise ValueError("collision: takes distances, not angles or poses")
        if self.collision and self.bins and self.reduce != "min":
            raise ValueError(
                f"collision: takes reduce: min, not {self.reduce}, which hides near things"
            )
        if self.collision and self.clip and not self.clip[0] < self.collision.range < self.clip[1]:
            raise ValueError(
                f"collision: range {self.collision.range:g} is outside clip {list(self.clip)}"
            )
        return self

    @model_validator(mode="after")
    def _check_source(self) -> "ObservationTerm":
        if self.source == "topic":
            _require(self, "topic", "type", "field")
        else:
            given = _given(self) - {"name", "source", "history"}
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
    field: Annotated[Names, Field(min_length=1)]
    """Field paths in the order of the action vector."""
    limits: tuple[Interval, ...]
    """[low, high] per field, in the unit of the field."""
    max_rate: tuple[Positive, ...] | None = None
    """Largest change per second, per field."""
    hold: Seconds = 0.5
    """How long a command stays in force without a new one [s]."""
    safe: tuple[Number, ...]
    """Command that is safe at any time, per field."""

    @model_validator(mode="after")
    def _check_lengths(self) -> "ActionTerm":
        _check_name(self.name)
        check_topic(self.topic, self.type)
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


class ImageTerm(Spec):
    """Camera images, resized into the dataset; they are no part of the observation vector."""

    name: str
    """Name of the dataset, images/NAME."""
    topic: str
    """Topic, with leading slash; timed by reception."""
    type: str
    """sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage."""
    size: tuple[Pixels, Pixels]
    """[height, width] to resize to [pixels]."""
    color: Literal["rgb", "gray"] = "rgb"
    """Three channels or one."""
    range: Interval | None = None
    """[low, high] of 16-bit and float images (depth), which become 0 and 255."""
    max_age: Seconds = 0.5
    """Oldest acceptable image [s]."""

    @model_validator(mode="after")
    def _check_image(self) -> "ImageTerm":
        _check_name(self.name)
        check_topic(self.topic, self.type)
        if self.type not in IMAGE_TYPES:
            raise ValueError(f"type: '{self.type}' is none of {', '.join(IMAGE_TYPES)}")
        if self.range and self.range[0] >= self.range[1]:
            raise ValueError("range: the lower end must be below the upper end")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (*self.size, 3 if self.color == "rgb" else 1)


def _check_name(name: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("next_"):
        raise ValueError(f"name: '{name}' must be an identifier that does not begin with next_")
    if name in FUNCTIONS:
        raise ValueError(f"name: '{name}' is a function of the expressions")


def _given(term: Term) -> set[str]:
    fields = type(term).model_fields
    return {key for key, field in fields.items() if getattr(term, key) != field.default}


def _require(term: Term, *keys: str) -> None:
    for key in keys:
        if not getattr(term, key):
            raise ValueError(f"{key}: missing")
    check_topic(term.topic, term.type)


def check_topic(topic: str, kind: str) -> None:
    """Raise ValueError for what is no topic, or no type of a message."""
    if not topic.startswith("/"):
        raise ValueError(f"topic: '{topic}' must begin with a slash")
    if not _TYPE.fullmatch(kind):  # its package is imported
        raise ValueError(f"type: '{kind}' must be package/msg/Name")
