"""Export of a run whose dataset was not made from bags."""

from pathlib import Path

import numpy as np
import pytest
from offrl_contract import cli, robot_from_yaml
from offrl_contract.definitions import from_texts
from offrl_data.dataset import Episode, load_dataset
from offrl_data.dataset_writer import DatasetWriter
from offrl_policy.policy_file import Policy

ROBOT = """
robot: point
rate: 5.0
observation:
  - {name: x, topic: /odom, type: %s, field: pose.pose.position.x}
action:
  - {name: cmd, topic: /cmd_vel, type: geometry_msgs/msg/Twist, field: linear.x, limits: [[-1, 1]], safe: [0.0]}
reward: "x"
"""  # noqa: E501


def log(path: Path, text: str, middle: float = 0.0) -> None:
    """Write 20 episodes of noise around some place, without any metadata."""
    random = np.random.default_rng(0)
    with DatasetWriter(path, robot_from_yaml(text, "point.yaml")) as writer:
        for _ in range(20):
            states, actions = random.uniform(-1.0, 1.0, (2, 31, 1)).astype(np.float32)
            states += np.float32(middle)
            writer.append(Episode(states, actions[1:], states[1:, 0], terminal=False, source=""))
        writer.finish({})


def trained(folder: Path, kind: str) -> list[str]:
    """Train on noise; return the arguments of an export."""
    data, run = folder / "data.h5", folder / "run"
    log(data, ROBOT % kind)
    training = ["bc", data, "--out", run, "--steps", 5, "--hidden", 8]
    assert cli.run(["train", *map(str, training)]) == 0
    exporting = [run, "--data", data, "--out", folder / "p.onnx", "--alpha", 0.25]
    return ["export", *map(str, exporting)]


def test_definitions_that_a_dataset_lacks_are_the_distributions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(trained(tmp_path, "nav_msgs/msg/Odometry")) == 0
    said = "geometry_msgs/msg/Twist, nav_msgs/msg/Odometry: defined as in ROS 2 kilted\n"
    assert said in capsys.readouterr().out
    policy = Policy(tmp_path / "p.onnx")
    known = from_texts(policy.definitions, "p.onnx")
    assert {"nav_msgs/msg/Odometry", "geometry_msgs/msg/Twist"} <= known.fielddefs.keys()


def test_a_type_that_nobody_defines_is_named_with_its_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = trained(tmp_path, "acme/msg/Place")
    assert cli.run(arguments) == cli.EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert "no ROS 2 definition of acme/msg/Place. Give one by --msgs DIR" in said
    assert not list(tmp_path.glob("*.onnx*"))
    (tmp_path / "acme" / "msg").mkdir(parents=True)
    text = "geometry_msgs/PoseWithCovariance pose\n"
    (tmp_path / "acme" / "msg" / "Place.msg").write_text(text)
    assert cli.run([*arguments, "--msgs", str(tmp_path)]) == 0
    assert "acme/msg/Place" in Policy(tmp_path / "p.onnx").definitions


def test_a_run_that_was_stopped_early_is_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = trained(tmp_path, "nav_msgs/msg/Odometry")
    assert cli.run(arguments) == 0
    assert "bc at step 5\n" in capsys.readouterr().out
    settings = tmp_path / "run" / "config.yaml"
    settings.write_text(settings.read_text().replace("{steps: 5,", "{steps: 9,"))
    assert cli.run(arguments) == 0
    assert "bc at step 5 of 9\n" in capsys.readouterr().out


@pytest.mark.parametrize("alpha", ["0", "nan", "1", "1.5", "-0.1"])
def test_an_alpha_that_is_none_leaves_with_2(
    alpha: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.run(["export", "no_run", "--data", "no_data.h5", f"--alpha={alpha}"])
    assert leaving.value.code == cli.EXIT_BAD_INPUT
    assert "Input should be" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = trained(tmp_path, "nav_msgs/msg/Odometry")
    data, key = tmp_path / "data.h5", tmp_path / "key.pem"
    key.write_text("a private key")
    told = {
        tmp_path: "is a folder",
        tmp_path / "policy.bin": "must end in .onnx",  # inspect and report would not read it
        data / "p.onnx": "cannot be written",
        data: "is a file to read",
        key: "is a file to read",
    }
    before = data.read_bytes()
    for out, answer in told.items():
        command = [*arguments, "--sign", str(key), "--out", str(out)]
        assert cli.run(command) == cli.EXIT_BAD_INPUT
        assert f"--out {out}: {answer}" in capsys.readouterr().err
    assert (data.read_bytes(), key.read_text()) == (before, "a private key")


def test_gate_data_says_what_is_normal_in_place_of_the_runs(tmp_path: Path) -> None:
    """A robot that is elsewhere by now: familiar to the one gate, and not to the other."""
    arguments = trained(tmp_path, "nav_msgs/msg/Odometry")
    moved = tmp_path / "moved.h5"
    log(moved, ROBOT % "nav_msgs/msg/Odometry", middle=5.0)

    def alarms(at: float) -> bool:
        policy = Policy(tmp_path / "p.onnx")
        scores = policy.run(np.array([at], np.float32), policy.initial_memory).uncertainty
        known = zip(scores.tolist(), policy.gate.scores, strict=True)
        return any(score >= each.threshold for score, each in known)

    assert cli.run(arguments) == 0
    assert "gate_dataset_digest" not in Policy(tmp_path / "p.onnx").about
    assert [alarms(0.2), alarms(5.2)] == [False, True]
    assert cli.run([*arguments, "--gate-data", str(moved)]) == 0
    about = Policy(tmp_path / "p.onnx").about
    assert about["gate_dataset_digest"] == load_dataset(moved).digest != about["dataset_digest"]
    assert [alarms(0.2), alarms(5.2)] == [True, False]


def test_gate_data_that_cannot_be_used_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = trained(tmp_path, "nav_msgs/msg/Odometry")
    other = tmp_path / "other.h5"
    log(other, (ROBOT % "nav_msgs/msg/Odometry").replace("rate: 5.0", "rate: 4.0"), middle=2.0)

    def refused(data: Path) -> str:
        assert cli.run([*arguments, "--gate-data", str(data)]) == cli.EXIT_BAD_INPUT
        assert not list(tmp_path.glob("*.onnx*"))
        return capsys.readouterr().err

    assert "--gate-data was made with another robot file than the run" in refused(other)
    assert "data.h5: the run was trained on it" in refused(tmp_path / "data.h5")
    log(tmp_path / "new.h5", ROBOT % "nav_msgs/msg/Odometry", middle=1.0)
    files = ["--bags", str(tmp_path / "new.h5"), "--data", str(tmp_path / "data.h5")]
    assert cli.run(["finetune", arguments[1], *files, "--steps", "2"]) == 0
    arguments[1] += "_finetuned"
    assert "new.h5: the run was trained on it" in refused(tmp_path / "new.h5")
