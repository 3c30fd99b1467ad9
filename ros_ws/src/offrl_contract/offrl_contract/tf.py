"""Transforms out of the messages of /tf and /tf_static, for a bag and for a live robot."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from rosbags.typesys.store import Typestore

from offrl_contract.buffers import Buffer, Entry
from offrl_contract.definitions import require_type
from offrl_contract.field_plan import Array, Fields
from offrl_contract.field_reader import FieldReader
from offrl_contract.frames import POSE_PARTS, Tree, clean, tree_of
from offrl_contract.reader import Message
from offrl_contract.robot import TRANSFORM_TOPICS, TRANSFORM_TYPE
from offrl_contract.series import Series, Times

DYNAMIC, STATIC = TRANSFORM_TOPICS
_CHILD, _PARENT = "transforms[].child_frame_id", "transforms[].header.frame_id"
_FIELDS = tuple(
    f"{group}.{part}"
    for group, parts in (("translation", "xyz"), ("rotation", "xyzw"))
    for part in parts
)


class Transforms(NamedTuple):
    """One transform of each of T messages."""

    child: str
    parent: str
    poses: Array
    """(T, 7)"""


class TransformReader:
    """Picks the transforms out of TF messages, of ROS 2 or ROS 1 (tf/msg/tfMessage)."""

    def __init__(self, store: Typestore, type_name: str = TRANSFORM_TYPE) -> None:
        require_type(store, type_name, type_name)
        self.paths = tuple(f"transforms[].transform.{field}" for field in _FIELDS)
        """Number fields to read of each message."""
        self.same = (_CHILD, _PARENT)
        """Text fields that messages of one layout share."""

    def read(self, fields: Fields) -> list[Transforms]:
        """Return the transforms of T messages of one layout.

        Transforms without a name, or of a frame in itself, are left out, as tf2 does.
        """
        columns, texts = fields
        found = []
        for index, (child, parent) in enumerate(zip(texts[_CHILD], texts[_PARENT], strict=True)):
            names = clean(child), clean(parent)
            if all(names) and names[0] != names[1]:
                keys = [f"transforms[{index}].transform.{field}" for field in _FIELDS]
                found.append(Transforms(*names, np.hstack([columns[key] for key in keys])))
        return found

    def fields(self, message: Message) -> Fields:
        """Pick the fields of one message (1, 1) that has been deserialised."""
        entries = message.transforms
        texts = {
            _CHILD: [entry.child_frame_id for entry in entries],
            _PARENT: [entry.header.frame_id for entry in entries],
        }
        columns: dict[str, Array] = {}
        for index, entry in enumerate(entries):
            place, turn = entry.transform.translation, entry.transform.rotation
            row = (place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w)
            for field, value in zip(_FIELDS, row, strict=True):
                columns[f"transforms[{index}].transform.{field}"] = np.array([[value]], np.float64)
        return Fields(columns, texts)


class TransformLog:
    """Gathers the transforms of one topic of a bag."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[tuple[Times, Times, int, Transforms]]] = {}

    def add(self, received: Times, rows: Times, transforms: Iterable[Transforms]) -> None:
        """Take what `TransformReader` made of T messages.

        `received` (T,) are their receive stamps [ns], `rows` (T,) their places among all messages
        of the topic: of two at one instant, the one of the higher row counts.
        """
        for entry, each in enumerate(transforms):
            self._pieces.setdefault(each.child, []).append((received, rows, entry, each))

    def series(self) -> dict[str, Series]:
        """Return the poses of each child frame over time."""
        return {child: _joined(pieces) for child, pieces in self._pieces.items()}


def _joined(pieces: list[tuple[Times, Times, int, Transforms]]) -> Series:
    stamps = np.concatenate([received for received, _, _, _ in pieces])
    rows = np.concatenate([rows for _, rows, _, _ in pieces])
    entries = np.concatenate([np.full(len(rows), entry) for _, rows, entry, _ in pieces])
    values = np.concatenate([each.poses for _, _, _, each in pieces])
    frames = np.concatenate([np.full(len(rows), each.parent) for _, rows, _, each in pieces])
    order = np.lexsort((entries, rows, stamps))
    return Series(stamps[order], values[order], frames=frames[order])


class LiveTransforms:
    """Holds the latest transforms of a robot; those of /tf_static for ever."""

    def __init__(self, store: Typestore) -> None:
        self._reader = TransformReader(store)
        self._fields = FieldReader(TRANSFORM_TYPE, [self._reader], store)
        self._buffers: dict[str, dict[str, Buffer[Transforms]]] = {DYNAMIC: {}, STATIC: {}}

    def reset(self) -> None:
        """Forget /tf. What is static is not sent again, and holds on the new clock as well."""
        self._buffers[DYNAMIC].clear()
        for buffer in self._buffers[STATIC].values():
            buffer.entries = [Entry(0, 0, buffer.entries[-1].payload)]

    def push(self, topic: str, stamp: int, content: bytes | Message, window: int) -> None:
        """Take a message of /tf or /tf_static received at `stamp` [ns]; see `Buffer.push`.

        Raises MalformedMessageError.
        """
        for each in self._reader.read(self._fields.read(content)):
            buffer = self._buffers[topic].setdefault(each.child, Buffer())
            buffer.push(Entry(stamp, stamp, each), window)

    def tree(self, ticks: Iterable[int]) -> Tree:
        """Return what causal sampling at these ticks [ns] needs."""
        at = list(ticks)
        series = {
            topic: {child: _live_series(buffer, at) for child, buffer in buffers.items()}
            for topic, buffers in self._buffers.items()
        }
        return tree_of(series[DYNAMIC], series[STATIC])


def _live_series(buffer: Buffer[Transforms], ticks: list[int]) -> Series:
    chosen = buffer.needed(ticks)
    poses = [entry.payload.poses for entry in chosen]
    return Series(
        np.array([entry.stamp for entry in chosen], np.int64),
        np.concatenate([np.empty((0, POSE_PARTS)), *poses]),
        frames=np.array([entry.payload.parent for entry in chosen], np.str_),
    )
