"""Turns the fields that a robot file names into the values of its terms, for bag and robot alike.

The fields come out of bytes by `field_plan`. Here is the general path as well: `rosbags`
deserialises a message, CDR of either endianness or the ROS 1 wire, and they are picked from it.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import TypesysError
from rosbags.typesys.store import Typestore

from offrl_contract.counts import ValueCounts
from offrl_contract.definitions import require_type
from offrl_contract.errors import InputError, nearest
from offrl_contract.field_plan import Array, Fields
from offrl_contract.frames import POSE_PARTS, clean
from offrl_contract.lazy_typestore import types_below
from offrl_contract.robot import ActionTerm, Term
from offrl_contract.transforms import clipped, reduced

Wire = Literal["cdr", "ros1"]
Message = Any
"""A deserialised message: an object with one attribute per field."""

_HEADER = "std_msgs/msg/Header"
_QUATERNION = "geometry_msgs/msg/Quaternion"
_POSE = "geometry_msgs/msg/Pose"
_LASER_SCAN = "sensor_msgs/msg/LaserScan"
_RANGE_LIMITS = ("range_min", "range_max")
_NAMES = "name"
_FRAME_ID = "header.frame_id"
_QUATERNION_PARTS = ("x", "y", "z", "w")
_POSE_PARTS = (
    *(f"position.{part}" for part in "xyz"),
    *(f"orientation.{part}" for part in _QUATERNION_PARTS),
)


class MalformedMessageError(ValueError):
    """A message that cannot be decoded, or whose arrays are not as the robot file says."""


def has_header(store: Typestore, type_name: str) -> bool:
    """Whether messages of a type begin with a std_msgs/Header."""
    first = store.fielddefs[type_name][1][:1]
    return bool(first) and first[0][1] == (Nodetype.NAME, _HEADER)


class MessageReader:
    """Deserialises the messages of one type."""

    def __init__(self, type_name: str, store: Typestore, wire: Wire = "cdr") -> None:
        require_type(store, type_name, "reader")
        self.type_name = type_name
        self.wire = wire
        self._store = store
        self._decode: Callable[[bytes | memoryview, str], Message] = (
            store.deserialize_cdr if wire == "cdr" else store.deserialize_ros1
        )
        self.has_header = has_header(store, type_name)

    def read(self, raw: bytes | memoryview) -> Message:
        """Deserialise one message. Raises MalformedMessageError."""
        try:
            return self._decode(raw, self.type_name)
        except (SerdeError, ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
            raise MalformedMessageError(f"{self.type_name} of {len(raw)} bytes: {error}") from error

    def prepare(self) -> None:
        """Make what `read` needs, which takes longer than reading. Raises InputError."""
        try:
            for name in types_below(self._store, self.type_name):
                self._store.get_msgdef(name)
        except (KeyError, SerdeError, TypesysError) as error:
            raise InputError(f"definition of {self.type_name}: {error}") from error

    def header_stamp(self, raw: bytes | memoryview) -> int:
        """Return the header stamp [ns] without decoding the rest. Raises MalformedMessageError."""
        try:
            if self.wire == "ros1":
                seconds, nanoseconds = struct.unpack_from("<II", raw, 4)
            else:
                order = "<" if raw[1] & 1 else ">"
                seconds, nanoseconds = struct.unpack_from(f"{order}iI", raw, 4)
        except (struct.error, IndexError) as error:
            raise MalformedMessageError(f"{self.type_name} of {len(raw)} bytes: {error}") from error
        return int(seconds) * 1_000_000_000 + int(nanoseconds)


class _Found(NamedTuple):
    """A term in T messages, step by step."""

    seen: Array
    """(T, fields, n) as it was sent."""
    raw: Array
    """(T, fields, n) where readings below their range are NaN, those above it inf."""
    outside: int
    """How many were out of range."""
    values: Array
    """(T, width)"""
    clipped: Array
    """(T, width)"""


def missing_share(raw: Array) -> Array:
    """Return the share (T,) of raw fields (T, fields, n) that are NaN or infinite."""
    finite = np.isfinite(raw)
    return np.zeros(len(raw)) if finite.all() else (~finite).mean((1, 2))


class TermReader:
    """Picks the values of one term out of messages; checks its fields against the definition."""

    def __init__(self, term: Term | ActionTerm, store: Typestore) -> None:
        where = f"term '{term.name}'"
        require_type(store, term.type, where)
        self.term = term
        for path in term.field:
            kind = _resolve(store, term.type, path, where)
            _check_kind(kind, term, path, where)
        self.framed = isinstance(term, Term) and bool(term.frame)
        """Whether its values are poses in a frame that each message names."""
        if self.framed and not has_header(store, term.type):
            raise InputError(f"{where}: frame needs a header, {term.type} begins with none")
        self.width = POSE_PARTS if self.framed else term.parts
        """Numbers per message: `parts` of the term, or the raw pose where it has a `frame`."""
        self._laser = term.type == _LASER_SCAN and term.field == ("ranges",)
        limit = term.max_missing if isinstance(term, Term) else None
        self._most_missing = 1.0 if limit is None else limit
        self._selects = isinstance(term, Term) and bool(term.select)
        self.paths = self._paths()
        """Fields to read of each message, each a number or an array of numbers."""
        self.same = (_NAMES,) if self._selects else (_FRAME_ID,) if self.framed else ()
        """Text fields that decide where the values are."""
        if self._selects and not _has_names(store, term.type):
            raise InputError(
                f"{where}: select needs an array `name` of strings, {term.type} has none"
            )
        self._getters = {path: attrgetter(path) for path in self.paths}

    def fields(self, message: Message) -> Fields:
        """Pick the fields of one message (1, count) that has been deserialised."""
        columns = {
            path: np.asarray(getter(message), dtype=np.float64).reshape(1, -1)
            for path, getter in self._getters.items()
        }
        texts: dict[str, Sequence[str]] = {}
        if self.framed:
            texts[_FRAME_ID] = [message.header.frame_id]
        elif self._selects:
            texts[_NAMES] = message.name
        return Fields(columns, texts)

    def values(self, fields: Fields) -> Array:
        """Return the term's values (width,) of one message. Raises MalformedMessageError."""
        found = self._values(fields)
        if self._most_missing < 1.0:
            missing = float(missing_share(found.raw)[0])
            if missing > self._most_missing:
                count = found.raw[0].size
                allowed = math.floor(self._most_missing * count + 1e-9)
                raise MalformedMessageError(
                    f"{self.term.name}: {missing * count:.0f} of {count} readings are missing, at "
                    f"most {allowed} may be"
                )
        values: Array = found.clipped[0]
        return values

    def read(self, fields: Fields) -> tuple[Array, ValueCounts]:
        """Return values (T, width) of T messages, and what was found in them.

        The columns hold the fields `paths`, the texts the strings of the fields `same`. Raises
        MalformedMessageError.
        """
        found = self._values(fields)
        missing = missing_share(found.raw)
        scarce = missing > self._most_missing
        kept = np.where(scarce[:, None], np.nan, found.clipped) if scarce.any() else found.clipped
        return kept, self._counts(found, missing, scarce)

    def frame_id(self, fields: Fields) -> str:
        """Return the frame in which the poses are given; "" for a term without `frame`."""
        return clean(fields.texts[_FRAME_ID][0]) if self.framed else ""

    def _values(self, fields: Fields) -> "_Found":
        seen = self._joined(fields.columns, fields.texts.get(_NAMES, ()))
        raw, outside = self._in_range(fields.columns, seen) if self._laser else (seen, 0)
        values = self._reduced(raw)
        return _Found(seen, raw, outside, values, self._clipped(values))

    def _joined(self, columns: Mapping[str, Array], names: Sequence[str]) -> Array:
        """Return the fields (T, fields, n) out of columns (T, count) by path.

        `names` are those of a JointState, where the term selects by name. Raises
        MalformedMessageError.
        """
        term = self.term
        if isinstance(term, Term) and term.yaw:
            parts = np.stack([columns[path] for path in self.paths], axis=1)  # (T, 4 fields, 1)
            return parts.reshape(len(parts), -1, len(_QUATERNION_PARTS))
        if self.framed:
            return np.stack([columns[path] for path in self.paths], axis=1)
        fields = [columns[path] for path in term.field]
        if isinstance(term, Term):
            self._check_lengths(term, fields, names)
            if term.select:
                order = self._order(names)
                fields = [field[:, order] for field in fields]
        return fields[0][:, None] if len(fields) == 1 else np.stack(fields, axis=1)

    @staticmethod
    def _in_range(columns: Mapping[str, Array], seen: Array) -> tuple[Array, int]:
        """Apply the rule of a LaserScan; return the readings and how many it changed.

        Below range_min is no reading, above range_max no return.
        """
        # in single precision, as the message has all of them
        least, most = (columns[name][:, None].astype(seen.dtype) for name in _RANGE_LIMITS)
        lowest, highest = seen.min(2, initial=np.inf), seen.max(2, initial=-np.inf)  # NaN if any is
        if (lowest >= least[..., 0]).all() and (highest <= most[..., 0]).all():
            return seen, 0
        near, far = seen < least, seen > most
        outside = int(np.count_nonzero((near | far) & np.isfinite(seen)))
        return np.where(near, np.nan, np.where(far, np.inf, seen)), outside

    def _reduced(self, raw: Array) -> Array:
        if isinstance(self.term, ActionTerm):
            return raw.reshape(len(raw), -1)
        try:
            return reduced(self.term, raw)
        except ValueError as error:
            raise MalformedMessageError(f"{self.term.name}: {error}") from error

    def _clipped(self, values: Array) -> Array:
        if isinstance(self.term, ActionTerm) or self.framed:
            return values
        return clipped(self.term, values)

    def _counts(self, found: "_Found", missing: Array, scarce: NDArray[np.bool_]) -> ValueCounts:
        term, seen = self.term, found.seen
        bad = nan = beyond = 0
        if missing.any():
            bad = seen.size - int(np.count_nonzero(np.isfinite(seen)))
            nan = int(np.count_nonzero(np.isnan(seen)))
        if isinstance(term, Term) and term.clip and not self.framed:
            low, high = term.clip
            past = (found.values < low) | (found.values > high)
            beyond = int(np.count_nonzero(past & np.isfinite(found.values)))
        array = isinstance(term, Term) and bool(term.select or term.size or term.bins)
        return ValueCounts(
            messages=len(seen),
            values=seen.size,
            nan=nan,
            inf=bad - nan,
            out_of_range=found.outside,
            most_missing=float(missing.max(initial=0.0)) if array else 0.0,
            scarce=int(np.count_nonzero(scarce)),
            clipped=beyond,
            lengths={seen.shape[2]: len(seen)} if array else {},
        )

    def _paths(self) -> tuple[str, ...]:
        term = self.term
        if isinstance(term, Term) and term.yaw:
            return tuple(f"{path}.{part}" for path in term.field for part in _QUATERNION_PARTS)
        if self.framed:
            return tuple(f"{term.field[0]}.{part}" for part in _POSE_PARTS)
        return (*term.field, *_RANGE_LIMITS) if self._laser else term.field

    def _check_lengths(self, term: Term, fields: list[Array], names: Sequence[str]) -> None:
        expected = term.size or (len(names) if term.select else fields[0].shape[1])
        for field in fields:
            if field.shape[1] != expected:
                raise MalformedMessageError(
                    f"{term.name}: {field.shape[1]} entries, expected {expected}"
                )

    def _order(self, names: Sequence[str]) -> list[int]:
        assert isinstance(self.term, Term)
        missing = [name for name in self.term.select if name not in names]
        if missing:
            raise MalformedMessageError(
                f"{self.term.name}: no '{missing[0]}' in the message.{nearest(missing[0], names)}"
            )
        return [names.index(name) for name in self.term.select]


def _has_names(store: Typestore, type_name: str) -> bool:
    kind: Any = dict(store.fielddefs[type_name][1]).get(_NAMES)
    array = kind is not None and kind[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE)
    return array and kind[1][0][0] == Nodetype.BASE and kind[1][0][1][0] == "string"


def _resolve(store: Typestore, type_name: str, path: str, where: str) -> Any:
    """Follow a field path through the definitions; return the kind of its end."""
    kind: Any = (Nodetype.NAME, type_name)
    for depth, part in enumerate(path.split(".")):
        at = ".".join(path.split(".")[:depth]) or type_name
        if kind[0] != Nodetype.NAME:
            raise InputError(f"{where}: field '{path}': '{at}' has no fields of its own")
        fields = dict(store.fielddefs[kind[1]][1])
        if part not in fields:
            raise InputError(
                f"{where}: field '{path}': {at} has no '{part}'.{nearest(part, fields)}"
            )
        kind = fields[part]
    return kind


def _check_kind(kind: Any, term: Term | ActionTerm, path: str, where: str) -> None:
    """Refuse a field whose kind does not fit the term's options."""
    scalar = kind[0] == Nodetype.BASE and kind[1][0] != "string"
    array = kind[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE)
    numbers = array and kind[1][0][0] == Nodetype.BASE and kind[1][0][1][0] != "string"
    if isinstance(term, Term) and term.yaw:
        if kind != (Nodetype.NAME, _QUATERNION):
            raise InputError(f"{where}: yaw needs a quaternion, '{path}' is none")
    elif isinstance(term, Term) and term.frame:
        if kind != (Nodetype.NAME, _POSE):
            raise InputError(f"{where}: frame needs a geometry_msgs/msg/Pose, '{path}' is none")
    elif isinstance(term, Term) and (term.select or term.size or term.bins):
        if not numbers:
            raise InputError(f"{where}: '{path}' is not an array of numbers")
    elif array:
        remedy = "give bins, select or size" if isinstance(term, Term) else "a command has numbers"
        raise InputError(f"{where}: '{path}' is an array: {remedy}")
    elif not scalar:
        raise InputError(f"{where}: '{path}' is not a number")
