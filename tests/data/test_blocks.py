"""Blocks of an mcap file, read through its index, hold what rosbags reads message by message."""

from pathlib import Path

import numpy as np
import pytest
from offrl_contract import InputError
from offrl_data.bags import Bag
from offrl_data.blocks import GATHERED, gather, indexed
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.storage_mcap import McapReader

from .conftest import BagMaker, drive


def contents(path: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Every message that our blocks hold, by topic, in order of time."""
    found: dict[str, list[tuple[int, bytes]]] = {}
    with Bag(path) as bag:
        for topic, block in bag.blocks(list(bag.topics.values())):
            rows = [(int(t), block.message(i)) for i, t in enumerate(block.received)]
            found.setdefault(topic, []).extend(rows)
    return {topic: sorted(rows) for topic, rows in found.items()}


def expected(path: Path) -> dict[str, list[tuple[int, bytes]]]:
    """The same by rosbags."""
    found: dict[str, list[tuple[int, bytes]]] = {}
    with Reader(path) as reader:
        for connection, stamp, raw in reader.messages():
            found.setdefault(connection.topic, []).append((stamp, bytes(raw)))
    return {topic: sorted(rows) for topic, rows in found.items()}


@pytest.mark.parametrize("kind", ["mcap", "db3"])
def test_blocks_hold_every_message(kind: str, make_bag: BagMaker) -> None:
    path = make_bag(drive(5.0), kind=kind)
    assert contents(path) == expected(path)


def test_blocks_of_real_mcap_files(bags: Path) -> None:
    read = 0
    for path in sorted(bags.rglob("*.mcap")):
        if "truncated" in path.name:
            continue
        with Bag(path) as bag:
            assert all(indexed(c.owner) for t in bag.topics.values() for c in t.connections)
        assert contents(path) == expected(path)
        read += 1
    assert read == 5


def test_gathered_blocks_are_bounded_and_keep_the_order() -> None:
    rows = [(i % 2, i, bytes([i % 251] * (i % 7))) for i in range(2 * GATHERED + 10)]
    blocks = list(gather(rows, {0: "/a", 1: "/b"}))
    half = GATHERED // 2
    assert [len(block.starts) for _, block in blocks] == [half] * 4 + [5, 5]
    found = [
        (int(t), b.message(i)) for n, b in blocks if n == "/a" for i, t in enumerate(b.received)
    ]
    assert found == [(stamp, raw) for key, stamp, raw in rows if key == 0]
    large = [(0, i, bytes(1 << 20)) for i in range(300)]
    assert max(block.sizes.sum() for _, block in gather(large, {0: "/a"})) <= 96 << 20


def test_an_index_that_lies_is_refused(make_bag: BagMaker) -> None:
    """The message index is moved by one byte: an error, never other bytes taken for a message."""
    (file,) = make_bag(drive(2.0)).glob("*.mcap")
    storage = McapReader(file)
    storage.open()
    offsets = [at for chunk in storage.chunks for at in chunk.message_index_offsets.values()]
    storage.close()
    content = bytearray(file.read_bytes())
    for at in offsets:
        length = int.from_bytes(content[at + 11 : at + 15], "little")
        entries = np.frombuffer(content, "<u8", length // 8, at + 15).copy()
        entries[1::2] += 1
        content[at + 15 : at + 15 + length] = entries.tobytes()
    file.write_bytes(bytes(content))
    with pytest.raises(InputError, match="index does not point to messages"):
        contents(file)
