"""Broken logs: what is whole is read, what is not is reported, --strict refuses."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zstandard
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from offrl_contract import InputError, Robot
from offrl_contract.cli import run
from offrl_data.bags import Bag, find_bags
from offrl_data.conversion import convert_bags
from offrl_data.dataset import load_dataset
from offrl_data.message_definitions import MessageDefinitions
from offrl_data.storage.mcap import Chunk, Mcap
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from .conftest import KIND, ROBOT, STORE, BagMaker, drive

Contents = dict[str, list[tuple[int, bytes]]]


def read(path: Path) -> tuple[Contents, list[str], list[str]]:
    """Every message by topic in order of time, the losses and the notes."""
    found: Contents = {}
    with Bag(path) as bag:
        for channel, block in bag.blocks(bag.topics):
            batch = block.pick(np.arange(len(block.received)))
            rows = [(int(t), batch.message(i)) for i, t in enumerate(block.received)]
            found.setdefault(channel.topic, []).extend(rows)
        return {k: sorted(v) for k, v in found.items()}, bag.losses.lines, bag.notes


@pytest.mark.parametrize(
    ("name", "recovered", "losses", "notes"),
    [
        ("truncated.bag", 3, "cut off after 1826 of 5544 bytes", ""),
        ("unindexed.bag", 14, "no usable index: read record by record, 14 messages", ""),
        ("truncated_mcap", 14, "the file ends inside the record at byte 1475", ""),
        ("autoware_ego_trajectory", 2130, "", "no metadata.yaml"),
        ("renamed_file", 3878, "", "which is not there; my_bag.db3 is read"),
        ("talker", 20, "", ""),
        ("neato_sim_drive_square", 5670, "", ""),  # a write-ahead log's mode, without the log
        ("service_events", 10, "", ""),
    ],
)
def test_real_broken_bags(name: str, recovered: int, losses: str, notes: str, bags: Path) -> None:
    contents, lost, noted = read(bags / name)
    assert sum(map(len, contents.values())) == recovered
    assert losses in "; ".join(lost)
    assert bool(losses) == bool(lost)
    assert notes in "; ".join(noted)


@pytest.mark.parametrize("kind", ["mcap", "bag"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.999])
def test_a_cut_off_file_gives_what_lies_before_the_cut(
    kind: str, part: float, make_bag: BagMaker, tmp_path: Path
) -> None:
    path = make_bag(drive(60.0), kind=kind)
    whole, _, _ = read(path)
    file = path if kind == "bag" else next(path.glob("*.mcap"))
    content = file.read_bytes()
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(content[: int(len(content) * part)])
    contents, lost, _ = read(cut)
    count = sum(map(len, whole.values()))
    recovered = sum(map(len, contents.values()))
    assert lost or recovered == count
    assert part * 0.8 * count - 40 <= recovered <= count
    for topic, rows in contents.items():
        assert rows == whole[topic][: len(rows)]


def test_a_cut_off_compressed_chunk_gives_its_start(tmp_path: Path) -> None:
    """One zstd chunk of 768 KiB, cut in its middle."""
    path = tmp_path / "packed"
    writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        topic = writer.add_connection("/pose", KIND, typestore=STORE)
        rng = np.random.default_rng(0)
        for k in range(9000):
            writer.write(topic, k, b"\0\1\0\0" + rng.bytes(48))
    (file,) = path.glob("*.mcap")
    whole, _, _ = read(file)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    contents, lost, _ = read(file)
    rows = contents["/pose"]
    assert len(rows) > 3000
    assert rows == whole["/pose"][: len(rows)]
    assert any("cut off after" in line for line in lost)


@pytest.fixture
def chunks(tmp_path: Path) -> tuple[Path, Contents]:
    """Small chunks, so that many are decompressed at once, and what they hold."""
    path = tmp_path / "chunks.mcap"
    with path.open("wb") as stream:
        writer = McapWriter(stream, chunk_size=2000, compression=CompressionType.ZSTD)
        writer.start(profile="ros2")
        text = STORE.generate_msgdef(KIND, ros_version=2)[0]
        schema = writer.register_schema(KIND, "ros2msg", text.encode())
        channels = [writer.register_channel(topic, "cdr", schema) for topic in ("/a", "/b")]
        rng = np.random.default_rng(0)
        for k in range(750):
            writer.add_message(channels[k % 2], k, b"\0\1\0\0" + rng.bytes(48), k)
        writer.finish()
    whole, lost, notes = read(path)
    assert (len(whole["/a"]), len(whole["/b"]), lost, notes) == (375, 375, [], [])
    with Mcap(path) as storage:
        assert len(storage.chunks) > 20
    return path, whole


def stamps_of(storage: Mcap, chunk: Chunk) -> set[int]:
    """The stamps of a chunk's messages, read record by record."""
    content = storage.content(chunk)
    assert content is not None
    return {int(t) for _, block in storage._walked(content) for t in block.received}


def test_a_damaged_chunk_costs_its_own_messages_only(chunks: tuple[Path, Contents]) -> None:
    path, whole = chunks
    with Mcap(path) as storage:
        chunk = storage.chunks[7]
        gone = stamps_of(storage, chunk)
    content = bytearray(path.read_bytes())
    content[chunk.offset + chunk.size // 2] ^= 0xFF
    path.write_bytes(content)
    contents, lost, _ = read(path)
    for topic, rows in whole.items():
        assert contents[topic] == [row for row in rows if row[0] not in gone]
    assert [line for line in lost if f"chunk at byte {chunk.offset}" in line]


@pytest.mark.parametrize("shift", [1, 60, 10**6, 2**63])
def test_a_lying_index_among_others_costs_nothing(
    shift: int, chunks: tuple[Path, Contents]
) -> None:
    """An offset that points into a message, at another one's record, beyond the chunk, nowhere."""
    path, whole = chunks
    with Mcap(path) as storage:
        chunk = storage.chunks[7]
        at = min(chunk.indexes.values()) + 9 + 6 + 8  # the first entry, after its time
    content = bytearray(path.read_bytes())
    offset = (int.from_bytes(content[at : at + 8], "little") + shift) % 2**64
    content[at : at + 8] = offset.to_bytes(8, "little")
    path.write_bytes(content)
    contents, lost, notes = read(path)
    assert contents == whole
    assert lost == []
    assert [note for note in notes if f"chunk at byte {chunk.offset}: index unusable" in note]


def test_a_chunk_that_claims_too_much_memory_is_lost_alone(
    chunks: tuple[Path, Contents], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = chunks
    with Mcap(path) as storage:
        chunk = storage.chunks[7]
        gone = stamps_of(storage, chunk)
    content = bytearray(path.read_bytes())
    at = chunk.offset + 9 + 16  # the size of the decompressed records
    content[at : at + 8] = (1 << 30).to_bytes(8, "little")
    path.write_bytes(content)
    empty = np.empty

    def limited(shape: Any, *arguments: Any) -> Any:
        if np.prod(shape) >= 1 << 30:
            raise MemoryError
        return empty(shape, *arguments)

    monkeypatch.setattr(np, "empty", limited)
    contents, lost, _ = read(path)
    assert sum(map(len, contents.values())) == sum(map(len, whole.values())) - len(gone)
    where = f"chunk at byte {chunk.offset}"
    assert f"{where}: claims 1073741824 bytes, more than there is memory for" in lost


def split(make_bag: BagMaker, tmp_path: Path) -> Path:
    """A bag of two files, with the metadata of both."""
    first, second = make_bag(drive(5.0), name="one"), make_bag(drive(5.0, start=200.0), name="two")
    folder = tmp_path / "split"
    folder.mkdir()
    for index, part in enumerate((first, second)):
        shutil.copy(next(part.glob("*.mcap")), folder / f"split_{index}.mcap")
    content = yaml.safe_load((first / "metadata.yaml").read_text())
    information = content["rosbag2_bagfile_information"]
    information["relative_file_paths"] = ["split_0.mcap", "split_1.mcap"]
    for topic in information["topics_with_message_count"]:
        topic["message_count"] *= 2
    (folder / "metadata.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_a_split_bag_without_one_part(make_bag: BagMaker, robot: Robot, tmp_path: Path) -> None:
    folder = split(make_bag, tmp_path)
    (report,) = convert_bags([folder], robot, tmp_path / "whole.h5")
    assert report.losses == []
    whole = report.transitions
    (folder / "split_1.mcap").unlink()
    (report,) = convert_bags([folder], robot, tmp_path / "half.h5")
    assert report.transitions == whole / 2
    assert "split_1.mcap is missing" in report.losses
    assert "/pose: 200 messages announced, 100 found" in report.losses
    assert report.lost == 150


def test_strict_refuses_what_is_reported_otherwise(
    make_bag: BagMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, robot = split(make_bag, tmp_path), tmp_path / "test.yaml"
    (folder / "split_1.mcap").unlink()
    robot.write_text(ROBOT)
    command = ["convert", str(folder), "--robot", str(robot), "--out", str(tmp_path / "d.h5")]
    assert run([*command, "--strict"]) == 2
    assert "--strict: split_1.mcap is missing" in capsys.readouterr().err
    assert not (tmp_path / "d.h5").exists()
    assert run(command) == 0
    assert "lost: split_1.mcap is missing" in capsys.readouterr().out


def test_metadata_with_wrong_counts(make_bag: BagMaker) -> None:
    path = make_bag(drive(5.0), kind="db3")
    metadata = path / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("message_count: 100", "message_count: 120"))
    contents, lost, _ = read(path)
    assert len(contents["/pose"]) == 100
    assert lost == ["/pose: 120 messages announced, 100 found"]


def test_metadata_that_is_no_metadata(make_bag: BagMaker) -> None:
    path = make_bag(drive(5.0))
    for text in ("", "{", "- 1\n", "rosbag2_bagfile_information: {}\n", "\0"):
        (path / "metadata.yaml").write_text(text)
        contents, lost, notes = read(path)
        assert len(contents["/pose"]) == 100
        assert lost == []
        assert "metadata.yaml not usable" in notes[0]


def test_write_ahead_log_is_merged_or_reported(make_bag: BagMaker, tmp_path: Path) -> None:
    (source,) = make_bag(drive(5.0), kind="db3").glob("*.db3")
    log = tmp_path / "log.db3"
    shutil.copy(source, log)
    writer = sqlite3.connect(log)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES(1, 5, x'00010000')")
    writer.commit()
    other = tmp_path / "copy"
    other.mkdir()
    for file in tmp_path.glob("log.db3*"):  # as left behind by a recorder that was killed
        shutil.copy(file, other)
    writer.close()
    (other / "log.db3-shm").unlink()
    contents, lost, _ = read(other / "log.db3")
    assert sum(map(len, contents.values())) == 151
    assert lost == []


def test_files_and_messages_that_are_compressed(make_bag: BagMaker, tmp_path: Path) -> None:
    plain = make_bag(drive(5.0), kind="db3", name="plain")
    whole, _, _ = read(plain)
    (file,) = plain.glob("*.db3")
    folder = tmp_path / "files"
    folder.mkdir()
    packed = zstandard.ZstdCompressor().compress(file.read_bytes())
    (folder / f"{file.name}.zstd").write_bytes(packed)
    assert read(folder)[0] == whole
    (folder / f"{file.name}.zstd").write_bytes(packed[: len(packed) // 2])
    contents, lost, _ = read_or_refused(folder)
    assert lost or not contents
    path = tmp_path / "messages"
    writer = Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3)
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        topics = {t: writer.add_connection(t, KIND, typestore=STORE) for t in whole}
        for topic, rows in whole.items():
            for stamp, raw in rows:
                writer.write(topics[topic], stamp, raw)
    assert read(path)[0] == whole


def read_or_refused(path: Path) -> tuple[Contents, list[str], list[str]]:
    try:
        return read(path)
    except InputError as error:
        return {}, [str(error)], []


def test_one_unreadable_bag_among_others_is_left_out(
    make_bag: BagMaker, robot: Robot, bags: Path, tmp_path: Path
) -> None:
    paths = [bags / "empty_file.bag", make_bag(drive(5.0))]
    reports = convert_bags(paths, robot, tmp_path / "data.h5")
    assert "cannot be opened" in reports[0].losses[0]
    assert len(load_dataset(tmp_path / "data.h5")) == reports[1].transitions > 0
    with pytest.raises(InputError, match="cannot be opened"):
        convert_bags(paths, robot, tmp_path / "strict.h5", strict=True)


def test_inspect_shows_the_other_bags(
    make_bag: BagMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bag(drive(1.0), name="logs/z")
    (tmp_path / "logs" / "a.bag").write_bytes(b"")
    assert run(["inspect", str(tmp_path / "logs")]) == 2
    shown = capsys.readouterr()
    assert "a.bag: cannot be opened" in shown.err
    assert "/pose" in shown.out


def test_inspect_shows_names_whole_and_as_they_are(
    make_bag: BagMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = "/a" + "/very_long_name" * 8
    bag = make_bag([(topic, 1.0, 0.0, 0.0)], name="run[bold] :smile:")
    assert run(["inspect", str(bag)]) == 0
    shown = capsys.readouterr().out
    assert "run[bold] :smile:" in shown
    assert topic in "".join(
        line.split("│")[1].strip() for line in shown.splitlines() if "│" in line
    )


def test_inspect_shows_a_compressed_file(
    make_bag: BagMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (storage,) = make_bag(drive(1.0)).glob("*.mcap")
    packed = tmp_path / "x.mcap.zstd"
    packed.write_bytes(zstandard.ZstdCompressor().compress(storage.read_bytes()))
    assert run(["inspect", str(packed)]) == 0
    assert "/pose" in capsys.readouterr().out


def test_recordings_in_one_folder_are_not_mixed(
    make_bag: BagMaker, robot: Robot, tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    for name, start in (("a", 100.0), ("b", 101.0)):
        bag = make_bag(drive(4.0, start=start), name=name)
        shutil.copy(next(bag.glob("*.mcap")), logs / f"robot_{name}.mcap")
    assert find_bags([logs]) == [logs / "robot_a.mcap", logs / "robot_b.mcap"]
    convert_bags(find_bags([logs]), robot, tmp_path / "d.h5")
    assert load_dataset(tmp_path / "d.h5").sources == ("robot_a.mcap", "robot_b.mcap")
    with pytest.raises(InputError, match="not parts of one recording"):
        Bag(logs)
    for number, name in enumerate("ab"):
        (logs / f"robot_{name}.mcap").rename(logs / f"robot_{number}.mcap")
    assert find_bags([logs]) == [logs]
    with pytest.raises(InputError, match=r"overlap in time.*Give the files themselves"):
        convert_bags([logs], robot, tmp_path / "d.h5")


def test_parts_of_a_recording_without_metadata_are_read_in_their_order(
    make_bag: BagMaker, robot: Robot, tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    for number, start in ((9, 100.0), (10, 102.0)):
        bag = make_bag(drive(2.0, start=start), name=str(number))
        shutil.copy(next(bag.glob("*.mcap")), logs / f"run_{number}.mcap")
    (report,) = convert_bags(find_bags([logs]), robot, tmp_path / "d.h5")
    assert (report.episodes, report.transitions) == (1, 39)
    assert report.losses == []


def test_a_topic_of_several_layouts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.mcap"
    with path.open("wb") as stream:
        writer = McapWriter(stream)
        writer.start("ros2")
        for text in ("float64 v\nfloat64 w\n", "float64 w\nfloat64 v\n"):
            schema = writer.register_schema("my/msg/Cmd", "ros2msg", text.encode())
            channel = writer.register_channel("/cmd", "cdr", schema)
            writer.add_message(channel, 0, b"\0\1\0\0" + bytes(16), 0)
        writer.finish()
    with Bag(path) as bag, pytest.raises(InputError, match="/cmd: its messages are of several lay"):
        MessageDefinitions().of(bag.topics["/cmd"], bag.name)
