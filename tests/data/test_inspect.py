"""What `offrl inspect` shows of a topic: its rate, and its fields as a robot file names them."""

from pathlib import Path

import numpy as np
import pytest
from offrl_contract import robot_from_yaml
from offrl_contract.cli import run
from offrl_contract.definitions import distro_definitions
from offrl_data.conversion import convert_bags
from offrl_data.dataset import load_dataset
from rosbags.rosbag2 import StoragePlugin, Writer

from .conftest import ROBOT, BagMaker, drive


def rows(shown: str) -> dict[str, list[str]]:
    """Return the cells of a table by the first one."""
    lines = (line.strip("│").split("│") for line in shown.splitlines() if line.startswith("│"))
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in lines}


@pytest.mark.parametrize("kind", ["mcap", "db3", "bag"])
def test_a_topic_shows_its_rate_and_its_fields(
    kind: str, make_bag: BagMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = make_bag(drive(2.0, gap=1.0), kind=kind)
    assert run(["inspect", str(bag), "--topic", "/cmd"]) == 0
    shown = capsys.readouterr().out
    names = [f"{part}.{axis}" for part in ("linear", "angular") for axis in "xyz"]
    assert list(rows(shown)) == names
    assert rows(shown)["linear.y"] == ["float64", "1", "0"]
    assert "20 messages, 10.0 Hz, longest gap 1.10 s" in shown


def test_its_names_are_those_of_a_robot_file(
    make_bag: BagMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each number that it shows can be converted under the name that it shows, with that value."""
    bag = make_bag(drive(2.0))
    assert run(["inspect", str(bag), "--topic", "/pose"]) == 0
    shown = rows(capsys.readouterr().out)
    names = [name for name, (kind, _, _) in shown.items() if kind == "float64"]
    assert len(names) == 6
    text = ROBOT.replace("[linear.x, linear.y]", f"[{', '.join(names)}]")
    convert_bags([bag], robot_from_yaml(text, "test.yaml"), tmp_path / "data.h5")
    first = load_dataset(tmp_path / "data.h5").observations[0]
    assert [float(shown[name][2]) for name in names] == pytest.approx(first.tolist(), abs=0.1)


def test_arrays_texts_and_lists_of_messages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = distro_definitions()
    kinds = store.types
    stamp = kinds["builtin_interfaces/msg/Time"](sec=3, nanosec=5)
    header = kinds["std_msgs/msg/Header"](stamp=stamp, frame_id="a" * 60)
    none = np.zeros(0)
    joints = kinds["sensor_msgs/msg/JointState"](
        header=header, name=["hip", "knee"], position=np.arange(6.0), velocity=none, effort=none
    )
    vector, turn = kinds["geometry_msgs/msg/Vector3"], kinds["geometry_msgs/msg/Quaternion"]
    moved = kinds["geometry_msgs/msg/Transform"](vector(1.0, 2.0, 3.0), turn(0.0, 0.0, 0.0, 1.0))
    frame = kinds["geometry_msgs/msg/TransformStamped"](header, "base", moved)
    frames = kinds["tf2_msgs/msg/TFMessage"](transforms=[frame])
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, message in (("/joints", joints), ("/tf", frames)):
            kind = message.__msgtype__
            connection = writer.add_connection(topic, kind, typestore=store)
            writer.write(connection, 10**9, store.serialize_cdr(message, kind))
    assert run(["inspect", str(tmp_path / "bag"), "--topic", "/joints"]) == 0
    shown = capsys.readouterr().out
    assert rows(shown) == {
        "header.stamp.sec": ["int32", "1", "3"],
        "header.stamp.nanosec": ["uint32", "1", "5"],
        "header.frame_id": ["string", "1", f"'{'a' * 40}…'"],
        "name": ["string[]", "2", "'hip', 'knee'"],
        "position": ["float64[]", "6", "0, 1, 2, 3, …"],
        "velocity": ["float64[]", "0", ""],
        "effort": ["float64[]", "0", ""],
    }
    assert "\n1 message\n" in shown
    assert run(["inspect", str(tmp_path / "bag"), "--topic", "/tf"]) == 0
    kind = "geometry_msgs/msg/TransformStamped[]"
    assert rows(capsys.readouterr().out) == {"transforms": [kind, "1", "{…}"]}


def test_a_type_of_ones_own_needs_its_definition(
    bags: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bump = ["inspect", str(bags / "neato_teleop"), "--topic", "/bump"]
    assert run(bump) == 2
    remedy = "no definition of neato2_interfaces/msg/Bump. Remedies: --msgs"
    assert remedy in capsys.readouterr().err
    assert run([*bump, "--msgs", str(bags / "msg")]) == 0
    assert "left_front" in rows(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bag", "--topic", "/pos"], "bag: no topic /pos. Did you mean '/pose'?"),
        (["bag", "--msgs", "."], "--msgs: only with --topic, whose messages it defines"),
        (["bag", "--topic", "/pose", "--distro", "kiltd"], "Did you mean 'kilted'?"),
        (["data.h5", "--topic", "/pose"], "data.h5: is no bag, and has no --topic"),
    ],
)
def test_what_cannot_be_shown_leaves_with_2(
    arguments: list[str],
    sentence: str,
    make_bag: BagMaker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_bag(drive(1.0))
    (tmp_path / "data.h5").touch()
    assert run(["inspect", str(tmp_path / arguments[0]), *arguments[1:]]) == 2
    assert sentence in capsys.readouterr().err


def test_a_first_message_that_is_damaged_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = distro_definitions()
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/pose", "geometry_msgs/msg/Twist", typestore=store)
        writer.write(connection, 10**9, b"\x00\x01\x00\x00\x01")
    assert run(["inspect", str(tmp_path / "bag"), "--topic", "/pose"]) == 2
    assert "bag: /pose: its first message: geometry_msgs/msg/Twist" in capsys.readouterr().err
