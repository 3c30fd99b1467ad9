"""What is lost is counted whole, wherever in a file it is, and once."""

from pathlib import Path

import numpy as np
import pytest
from mcap.writer import Writer
from offrl_data.bags import Bag
from offrl_data.storage import chunked, sqlite_pages
from offrl_data.storage.base import Losses
from offrl_data.storage.db3 import Db3
from offrl_data.storage.sqlite_pages import SqlitePages

from .conftest import BagMaker, drive


def lost(path: Path) -> Losses:
    """What is lost of a bag that is read twice, as one with images is."""
    with Bag(path) as bag:
        for _ in range(2):
            for _ in bag.blocks(bag.topics):
                pass
        return bag.losses


def test_damaged_pages_far_apart(make_bag: BagMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pages of rows, parsed apart."""
    monkeypatch.setattr(sqlite_pages, "_BYTES", 1 << 14)
    folder = make_bag(drive(200.0), kind="db3")
    (path,) = folder.glob("*.db3")
    (folder / "metadata.yaml").unlink()
    with Db3(path) as storage:
        root = storage._query("SELECT rootpage FROM sqlite_master WHERE name = 'messages'")[0][0]
    pages = SqlitePages(path)
    leaves, _ = pages.leaves(root)
    pages.close()
    content = bytearray(path.read_bytes())
    for leaf in (leaves[20], leaves[60]):
        at = (int(leaf) - 1) * pages.size
        content[at : at + pages.size] = b"\xff" * pages.size
    path.write_bytes(bytes(content))
    assert lost(path).lines == ["2 rows or pages are damaged"]
    assert lost(path).messages == 2


def test_impossible_stamps_far_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message is a block of its own."""
    monkeypatch.setattr(chunked, "_READ_TOGETHER", 1)
    path = tmp_path / "bag.mcap"
    with path.open("wb") as stream:
        writer = Writer(stream, chunk_size=1)
        writer.start("ros2")
        schema = writer.register_schema("std_msgs/msg/Empty", "ros2msg", b"")
        channel = writer.register_channel("/a", "cdr", schema)
        for k in range(40):
            stamp = (1 << 63) + k if k % 10 == 0 else k
            writer.add_message(channel, stamp, bytes(8), k)
        writer.finish()
    found = lost(path)
    assert found.lines == ["/a: 4 messages with impossible stamps"]
    assert found.messages == 4
    with Bag(path) as bag:
        received = np.concatenate([block.received for _, block in bag.blocks(["/a"])])
    assert received.tolist() == [k for k in range(40) if k % 10]


def test_a_file_that_the_metadata_does_not_name_is_told(make_bag: BagMaker) -> None:
    first, second = make_bag(drive(2.0), name="one"), make_bag(drive(2.0, 200.0), name="two")
    (file,) = second.glob("*.mcap")
    file.rename(first / "one_1.mcap")
    with Bag(first) as bag:
        assert bag.notes == ["metadata.yaml does not name one_1.mcap, which is not read"]


def test_metadata_that_names_no_file_hides_none(make_bag: BagMaker) -> None:
    folder = make_bag(drive(2.0))
    (file,) = folder.glob("*.mcap")
    metadata = folder / "metadata.yaml"
    text = metadata.read_text().replace(f"- {file.name}", "")
    metadata.write_text(text.replace("relative_file_paths:", "relative_file_paths: []"))
    with Bag(folder) as bag:
        assert bag.files == [file]
        assert "metadata.yaml not usable (ValueError: it names no file)" in bag.notes[0]
