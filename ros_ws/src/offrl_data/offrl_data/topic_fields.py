"""What the messages of a topic hold, under the names that a robot file gives to fields."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from offrl_contract import InputError
from offrl_contract.reader import MalformedMessageError, Message, MessageReader
from rosbags.interfaces import Nodetype
from rosbags.typesys.store import Typestore

from offrl_data.bags import Bag, Topic
from offrl_data.message_definitions import MessageDefinitions
from offrl_data.series import pace

_MOST_SHOWN = 4
_LONGEST_TEXT = 40


class Field(NamedTuple):
    """One field of a message."""

    path: str
    """With dots between names: twist.twist.linear.x."""
    type_name: str
    """As in a .msg file: float32[] for an array of any length."""
    value: Any
    """None where there is no message."""

    @property
    def shown(self) -> str:
        """The value in a few words."""
        if self.value is None:
            return "-"
        if isinstance(self.value, str) or np.isscalar(self.value):
            return _in_short(self.value)
        some = ", ".join(_in_short(each) for each in self.value[:_MOST_SHOWN])
        return some + (", …" if len(self.value) > _MOST_SHOWN else "")

    @property
    def entries(self) -> str:
        """The length of an array; 1 for what is none."""
        if self.value is None:
            return "-"
        return str(len(self.value)) if self.type_name.endswith("]") else "1"


class Content(NamedTuple):
    """The messages of a topic."""

    messages: int
    rate: float
    """[Hz], as received; 0 of less than two."""
    longest_gap: float
    """[s], as received."""
    fields: tuple[Field, ...]
    """Of the first message."""


def content(bag: Bag, topic: Topic, definitions: MessageDefinitions) -> Content:
    """Read a topic from its first message to its last.

    Raises InputError where nobody defines its type or its first message is damaged.
    """
    store, _ = definitions.of(topic, bag.name)
    first: Message = None
    stamps: list[np.ndarray[Any, Any]] = []
    for _, block in bag.blocks([topic.name]):
        if not stamps:
            reader = MessageReader(topic.type_name, store, topic.wire)
            try:
                first = reader.read(block.pick(np.zeros(1, np.int64)).message(0))
            except MalformedMessageError as error:
                raise InputError(f"{bag.name}: {topic.name}: its first message: {error}") from error
        stamps.append(block.received)
    received = np.concatenate([np.zeros(0, np.int64), *stamps])
    fields = tuple(_fields(store, topic.type_name, first))
    return Content(len(received), *pace(received), fields)


def _fields(store: Typestore, type_name: str, message: Message, above: str = "") -> Iterator[Field]:
    """Yield the fields of a message, in the place of an embedded one its own."""
    for name, (node, detail) in store.fielddefs[type_name][1]:
        value = None if message is None else getattr(message, name)
        if node is Nodetype.NAME:
            yield from _fields(store, str(detail), value, f"{above}{name}.")
        else:
            yield Field(above + name, _type_name(node, detail), value)


def _type_name(node: Nodetype, detail: Any) -> str:
    if node is Nodetype.BASE:
        return str(detail[0])
    if node is Nodetype.NAME:
        return str(detail)
    element, length = detail
    return f"{_type_name(*element)}[{length if node is Nodetype.ARRAY else ''}]"


def _in_short(value: Any) -> str:
    """Return a number, a text, or the class of a message."""
    if isinstance(value, str):
        return repr(value if len(value) <= _LONGEST_TEXT else value[:_LONGEST_TEXT] + "…")
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return str(value) if np.isscalar(value) else "{…}"
