"""Bad input to the converter and the dataset: one sentence, exit code 2, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from mcap.writer import Writer as McapWriter
from offrl_contract import Robot
from offrl_contract.cli import run
from offrl_data.dataset import Episode, load_dataset
from offrl_data.dataset_writer import DatasetWriter

from .conftest import KIND, ROBOT, STORE, BagMaker, drive

MINE = "/cmd, type: my/msg/Cmd, field: v"


@pytest.fixture
def robot_file(tmp_path: Path) -> Path:
    path = tmp_path / "test.yaml"
    path.write_text(ROBOT)
    return path


def refused(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail as bad input; return what it says."""
    assert run([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("topic: /pose", "topic: /pos", "/pos: no such topic in bag. Did you mean '/pose'?"),
        ("linear.y]", "linear.yy]", "twist.linear has no 'yy'"),
        ("robot: test", "robt: test", "robt: unknown key. Did you mean 'robot'?"),
        (
            "type: geometry_msgs/msg/Twist, field: [",
            "type: nav_msgs/msg/Odometry, field: [",
            "type",
        ),
    ],
)
def test_robot_file_that_does_not_fit(
    old: str,
    new: str,
    sentence: str,
    robot_file: Path,
    make_bag: BagMaker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    robot_file.write_text(ROBOT.replace(old, new))
    bag, out = make_bag(drive(1.0)), robot_file.with_name("data.h5")
    said = refused(["convert", bag, "--robot", robot_file, "--out", out], capsys)
    assert sentence.removeprefix("twist.") in said
    assert sorted(p.name for p in out.parent.iterdir()) == ["bag", "test.yaml"]


def test_topic_missing_from_every_bag(
    robot_file: Path, make_bag: BagMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bags = [make_bag([m for m in drive(1.0) if m[0] == "/pose"], name=name) for name in "ab"]
    said = refused(["convert", *bags, "--robot", robot_file, "--out", tmp_path / "d.h5"], capsys)
    assert "/cmd: no such topic in any of the 2 bags" in said


def test_bag_that_cannot_be_opened(
    bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "empty_file.bag"
    out = tmp_path / "d.h5"
    said = refused(["convert", bags / name, "--robot", "neato", "--out", out], capsys)
    assert name in said
    assert "cannot be opened" in said
    assert list(tmp_path.iterdir()) == []


def test_type_without_definition_names_both_remedies(
    bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", bags / "neato_teleop", "--robot", "neato", "--out", tmp_path / "d.h5"]
    said = refused(arguments, capsys)
    assert "no definition of neato2_interfaces/msg/Bump" in said
    assert "--msgs" in said
    assert "--distro" in said


def test_no_such_bag_folder_or_distro(
    robot_file: Path, tmp_path: Path, make_bag: BagMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    tail = ["--robot", robot_file, "--out", tmp_path / "d.h5"]
    assert "no such file" in refused(["convert", tmp_path / "none", *tail], capsys)
    (tmp_path / "hollow").mkdir()
    assert "no bag below it" in refused(["convert", tmp_path / "hollow", *tail], capsys)
    bag = make_bag(drive(1.0))
    said = refused(["convert", bag, *tail, "--distro", "kited"], capsys)
    assert "Did you mean 'kilted'?" in said


def test_bags_that_hold_nothing_usable_say_why(
    robot_file: Path, make_bag: BagMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = make_bag(drive(0.3))
    out = tmp_path / "d.h5"
    said = refused(["convert", bag, "--robot", robot_file, "--out", out], capsys)
    assert "no transition in 1 bags: episode under 3 ticks (2)" in said
    assert not out.exists()


def test_dataset_with_nan_names_the_place(
    robot: Robot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.h5"
    write(robot, path, episodes=2)
    with h5py.File(path, "r+") as file:
        file["observations"][7, 1] = np.nan
    assert "observations[7, 1] is not finite" in refused(["inspect", path], capsys)


def test_empty_and_foreign_datasets(
    robot: Robot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.h5"
    write(robot, path, episodes=0)
    assert "no transitions" in refused(["inspect", path], capsys)
    path.write_bytes(b"not HDF5")
    assert "not an offrl dataset" in refused(["inspect", path], capsys)
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros((3, 2))
    assert "not an offrl dataset" in refused(["inspect", path], capsys)


def test_what_is_read_is_not_overwritten(
    robot_file: Path, make_bag: BagMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = make_bag(drive(1.0))
    (storage,) = bag.glob("*.mcap")
    for bags, out in ((bag, robot_file), (storage, storage), (bag, storage)):
        before = out.read_bytes()
        said = refused(["convert", bags, "--robot", robot_file, "--out", out], capsys)
        assert f"--out {out}: is a file to read" in said
        assert out.read_bytes() == before


def test_places_that_cannot_be_written_or_read(
    robot_file: Path, make_bag: BagMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, out = make_bag(drive(2.0)), tmp_path / "d.h5"
    convert = ["convert", bag, "--robot", robot_file, "--out"]
    for folder in (tmp_path, Path("."), Path("/")):
        assert f"--out {folder}: is a folder" in refused([*convert, folder], capsys)
    said = refused([*convert, tmp_path / "d.txt"], capsys)  # inspect and report would not read it
    assert "d.txt: must end in .h5 or .hdf5" in said
    assert not list(tmp_path.glob("**/.*"))
    said = refused(["convert", bag, "--robot", "r" * 300, "--out", out], capsys)
    assert "no such robot file" in said
    said = refused(["convert", "b" * 300, "--robot", robot_file, "--out", out], capsys)
    assert "no such file or directory" in said
    (tmp_path / "bag.zstd").write_bytes(b"")
    said = refused(["convert", tmp_path / "bag.zstd", *convert[2:], out], capsys)
    assert "no bag file" in said
    assert run([str(each) for each in [*convert, out]]) == 0
    below = robot_file / "x-v0"
    for kind in ("d4rl", "minari"):
        said = refused(["dataset", "export", out, "--format", kind, "--out", below], capsys)
        assert f"{below}: cannot be written" in said


def test_files_that_are_odd_and_do_no_harm(
    robot_file: Path, make_bag: BagMaker, tmp_path: Path
) -> None:
    """A link to nowhere in a bag, a name that is no UTF-8, a comment in Latin-1, a folder B.msg."""
    bag, out, msgs = make_bag(drive(2.0)), tmp_path / "d.h5", tmp_path / "my" / "msg"
    (bag / "gone").symlink_to("nowhere")
    odd = bag.rename(os.fsdecode(os.fsencode(bag) + b"\xe9"))
    (msgs / "B.msg").mkdir(parents=True)
    (msgs / "A.msg").write_bytes("float64 x  # °\n".encode("latin-1"))
    command = ["convert", odd, "--robot", robot_file, "--out", out, "--msgs", tmp_path]
    assert run([str(each) for each in command]) == 0
    assert load_dataset(out).sources == ("bag\N{REPLACEMENT CHARACTER}",)


@pytest.mark.parametrize(
    ("definition", "sentence"),
    [
        ("wstring s\nfloat64 v\n", "my/msg/Cmd has a wstring, which is not supported"),
        ("other/Foo f\nfloat64 v\n", "no definition of other/msg/Foo"),
        ("float64[] v\n", "'v' is an array: a command has numbers"),
        ("float64 v\n", "no message on /cmd"),
    ],
)
def test_reasons_are_the_right_ones(
    definition: str,
    sentence: str,
    robot_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bag with poses, and a command topic of an own type without a message."""
    bag = tmp_path / "bag.mcap"
    robot_file.write_text(ROBOT.replace(f"/cmd, type: {KIND}, field: linear.x", MINE))
    with bag.open("wb") as stream:
        writer = McapWriter(stream)
        writer.start("ros2")
        texts = {KIND: STORE.generate_msgdef(KIND, ros_version=2)[0], "my/msg/Cmd": definition}
        schemas = {k: writer.register_schema(k, "ros2msg", t.encode()) for k, t in texts.items()}
        pose = writer.register_channel("/pose", "cdr", schemas[KIND])
        writer.register_channel("/cmd", "cdr", schemas["my/msg/Cmd"])
        for k in range(20):
            writer.add_message(pose, k * 10**8, b"\0\1\0\0" + bytes(48), 0)
        writer.finish()
    said = refused(["convert", bag, "--robot", robot_file, "--out", tmp_path / "d.h5"], capsys)
    assert sentence in said


def test_only_the_topic_without_messages_is_named(
    robot_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands wait for the first pose, which never comes: they are counted all the same."""
    bag = tmp_path / "bag.mcap"
    with bag.open("wb") as stream:
        writer = McapWriter(stream)
        writer.start("ros2")
        text = STORE.generate_msgdef(KIND, ros_version=2)[0].encode()
        schema = writer.register_schema(KIND, "ros2msg", text)
        _, cmd = (writer.register_channel(topic, "cdr", schema) for topic in ("/pose", "/cmd"))
        for k in range(20):
            writer.add_message(cmd, k * 10**8, b"\0\1\0\0" + bytes(48), 0)
        writer.finish()
    said = refused(["convert", bag, "--robot", robot_file, "--out", tmp_path / "d.h5"], capsys)
    assert "no message on /pose" in said
    assert "/cmd" not in said


def test_no_bags(robot_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = robot_file.with_name("d.h5")
    assert "no bags: give" in refused(["convert", "--robot", robot_file, "--out", out], capsys)


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("observations", np.zeros(10, np.float32), "observations has the shape (10,), not (10, 2)"),
        ("observations", None, "observations is a group, not a column"),
        ("rewards", np.float32(1.0), "rewards has the shape (), not (0,)"),
        ("rewards", np.full(10, b"a"), "rewards holds |S1, not float32"),
        ("terminals", np.zeros(10, np.int32), "terminals holds int32, not bool"),
        ("path", np.zeros((3, 2), np.float32), "path has the shape (3, 2), not (10, 2)"),
        ("episodes/source", [3, 4], "episodes/source holds int64, not text"),
        ("episodes/stamp", [3], "episodes/stamp has the shape (1,), not (2,)"),
        ("episodes/start", [0.0, 5.0], "episodes/start holds float64, not int64"),
        ("episodes/length", [10, 0], "episodes/length has 0, below 1"),
        ("episodes/final_observation", np.zeros((2, 3)), "has the shape (2, 3), not (2, 2)"),
    ],
)
def test_edited_datasets_are_refused_with_the_column(
    name: str,
    values: object,
    sentence: str,
    robot: Robot,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "data.h5"
    write(robot, path, episodes=2)
    with h5py.File(path, "r+") as file:
        file.pop(name, None)
        if values is None:
            file.create_group(name)
        else:
            file[name] = values
    assert sentence in refused(["inspect", path], capsys)


def test_metadata_that_is_no_json(
    robot: Robot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.h5"
    write(robot, path, episodes=2)
    with h5py.File(path, "r+") as file:
        file["metadata"].attrs["note"] = "my own words"
    assert "metadata/note is not JSON" in refused(["inspect", path], capsys)


def test_killed_conversion_leaves_the_old_file(robot_file: Path, make_bag: BagMaker) -> None:
    """SIGKILL at several moments: the file under the final name is the old one or a whole one."""
    bag, out = make_bag(drive(120.0)), robot_file.with_name("data.h5")
    out.write_bytes(b"old")
    command = [sys.executable, "-m", "offrl_contract.cli", "convert", str(bag)]
    command += ["--robot", str(robot_file), "--out", str(out)]
    for delay in (0.6, 0.9, 1.2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        content = out.read_bytes()
        assert content == b"old" or content[1:4] == b"HDF"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert h5py.is_hdf5(out)


def write(robot: Robot, path: Path, episodes: int) -> None:
    with DatasetWriter(path, robot) as writer:
        for _ in range(episodes):
            zeros = np.zeros((6, 2), np.float32)
            writer.append(
                Episode(zeros, zeros[:5, :1], np.zeros(5, np.float32), terminal=True, source="x")
            )
        writer.finish({})
