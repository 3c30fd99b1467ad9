"""Values of terms, and transforms, out of batches of messages."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from offrl_contract.counts import ValueCounts
from offrl_contract.reader import MalformedMessageError, TermReader
from offrl_contract.tf import TransformLog, TransformReader
from rosbags.typesys.store import Typestore

from offrl_data.bags import Topic
from offrl_data.groups import GroupReader
from offrl_data.storage.base import Batch, rows_at

_STAMP_AT = 4  # after the CDR header, or after the sequence number of ROS 1 [bytes]
_STAMP_END = 12

Times = NDArray[np.int64]
Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Names = NDArray[np.object_]


class Decoder:
    """Decodes the messages of one topic into the values of its terms."""

    def __init__(self, topic: Topic, terms: Mapping[str, TermReader], store: Typestore) -> None:
        """Plan the reading of terms by name."""
        self.topic = topic.name
        self.type_name = topic.type_name
        self.terms = terms
        self.malformed = 0
        """Messages that could not be read, or not as the robot file says."""
        self.counts = {name: ValueCounts() for name in terms}
        """What the rules of each term met."""
        self.wire = topic.wire
        self._groups = GroupReader(topic, terms.values(), store)
        self.has_header = self._groups.has_header

    def header_stamps(self, batch: Batch, otherwise: Times) -> Times:
        """Return header stamps (n,) [ns]; `otherwise` where there is none or the bytes end."""
        stamps = otherwise.copy()
        if not self.has_header:
            return stamps
        whole = np.flatnonzero(batch.sizes >= _STAMP_END)
        if not len(whole):
            return stamps
        heads = rows_at(batch.buffer, batch.starts[whole], _STAMP_END)
        words = np.ascontiguousarray(heads[:, _STAMP_AT:])
        if self.wire == "ros1":
            stamps[whole] = _nanoseconds(words, "<u4")
            return stamps
        little = (heads[:, 1] & 1).astype(np.bool_)
        found = _nanoseconds(words, "<i4")
        if not little.all():
            found = np.where(little, found, _nanoseconds(words, ">i4"))
        stamps[whole] = found
        return stamps

    def decode(self, batch: Batch) -> tuple[dict[str, Floats], dict[str, Names]]:
        """Return the values (n, width) of each term, and the frame (n,) of those that have one.

        Values are NaN where a message is malformed, and no tick will use them.
        """
        count = len(batch.starts)
        values = {name: np.full((count, t.width), np.nan) for name, t in self.terms.items()}
        frames = {
            name: np.full(count, "", np.object_) for name, t in self.terms.items() if t.framed
        }
        for group in self._groups.read(batch):
            bad = False
            for name, term in self.terms.items():
                try:
                    if group.fields is None:
                        raise MalformedMessageError(f"{name}: cannot be deserialised")
                    values[name][group.rows], counts = term.read(group.fields)
                except MalformedMessageError:
                    bad = True
                    continue
                self.counts[name] += counts
                if term.framed:
                    frames[name][group.rows] = term.frame_id(group.fields)
            self.malformed += len(group.rows) * bad
        return values, frames


class TransformDecoder:
    """Gathers the transforms of one topic."""

    def __init__(self, topic: Topic, store: Typestore) -> None:
        self._reader = TransformReader(store, topic.type_name)
        self._groups = GroupReader(topic, [self._reader], store)
        self._count = 0
        self.malformed = 0
        self.log = TransformLog()

    def decode(self, batch: Batch, received: Times) -> None:
        """Take messages received at (n,) [ns]."""
        for group in self._groups.read(batch):
            if group.fields is None:
                self.malformed += 1
                continue
            found = self._reader.read(group.fields)
            self.log.add(received[group.rows], group.rows + self._count, found)
        self._count += len(received)


def _nanoseconds(words: NDArray[np.uint8], seconds: str) -> Times:
    """Read (n, 8) bytes as seconds and nanoseconds."""
    order = seconds[0]
    whole = words[:, :4].copy().view(seconds)[:, 0].astype(np.int64)
    fraction = words[:, 4:].copy().view(f"{order}u4")[:, 0].astype(np.int64)
    return whole * 1_000_000_000 + fraction
