"""Other formats, out and in: a round trip changes nothing; foreign files need a robot file."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from offrl_contract.cli import run
from offrl_data.dataset import COLUMNS, Dataset, load_dataset
from offrl_data.formats import lerobot

from .datasets import ROBOT, image_arrays, write_dataset

FORMATS = ("minari", "d4rl", "robomimic", "lerobot")
NAMES = {"minari": "rover-v0", "d4rl": "flat.hdf5", "robomimic": "demo.hdf5", "lerobot": "frames"}


def call(*words: object) -> int:
    return run(["dataset", *map(str, words)])


def export(folder: Path, name: str, data: str = "data.h5") -> Path:
    out = folder / NAMES[name]
    assert call("export", folder / data, "--format", name, "--out", out) == 0
    return out


def assert_same(one: Dataset, other: Dataset) -> None:
    for name in (*COLUMNS, "starts", "lengths", "stamps", "final_observations", "path"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.digest == other.digest
    assert one.robot.digest() == other.robot.digest()
    assert one.sources == other.sources
    assert dict(one.metadata) == {k: v for k, v in other.metadata.items() if k != "imports"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_round_trip_changes_nothing(name: str, tmp_path: Path) -> None:
    ours = write_dataset(tmp_path / "data.h5")
    out = export(tmp_path, name)
    assert call("import", out, "--format", name, "--out", tmp_path / "back.h5") == 0
    assert_same(ours, load_dataset(tmp_path / "back.h5"))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["back.h5", "data.h5", out.name])


@pytest.mark.parametrize("name", FORMATS)
def test_vectors_of_one_entry(name: str, tmp_path: Path) -> None:
    narrow = ROBOT.replace(
        "[linear.x, angular.z], limits: [[-0.3, 0.7], ", "[angular.z], limits: ["
    )
    narrow = narrow.replace("safe: [0, 0]", "safe: [0]").replace(
        "  - {name: pose", "  # {name: pose"
    )
    narrow = narrow.replace('"pose_0"', '"turn_0"')
    ours = write_dataset(tmp_path / "data.h5", robot_text=narrow)
    assert ours.observations.shape[1] == ours.actions.shape[1] == 1
    out = export(tmp_path, name)
    assert call("import", out, "--format", name, "--out", tmp_path / "back.h5") == 0
    assert_same(ours, load_dataset(tmp_path / "back.h5"))


@pytest.mark.parametrize(
    ("name", "final"), [("minari", True), ("robomimic", True), ("d4rl", False)]
)
def test_images_survive(
    name: str, final: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = write_dataset(tmp_path / "data.h5", images=True)
    out = export(tmp_path, name)
    assert ("left out: the final images of cam" in capsys.readouterr().out) != final
    assert call("import", out, "--format", name, "--out", tmp_path / "back.h5") == 0
    assert_same(ours, load_dataset(tmp_path / "back.h5"))
    before, after = image_arrays(tmp_path / "data.h5"), image_arrays(tmp_path / "back.h5")
    assert set(after) == {"images/cam"} | ({"episodes/final_images/cam"} if final else set())
    for key, pixels in after.items():
        np.testing.assert_array_equal(pixels, before[key])


def test_lerobot_refuses_what_it_cannot_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data.h5", images=True)
    write_dataset(tmp_path / "odd.h5", robot_text=ROBOT.replace("10.0", "12.5"))
    for data, sentence in (("data.h5", "images (cam)"), ("odd.h5", "12.5 Hz; LeRobot's fps")):
        words = ("export", tmp_path / data, "--format", "lerobot", "--out", tmp_path / "frames")
        assert call(*words) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "frames").exists()


def foreign_d4rl(path: Path, **changes: object) -> Path:
    """A D4RL file that knows nothing of us: 4 rows to a terminal, 3 to a timeout, 2 more."""
    columns: dict[str, object] = {
        "observations": np.arange(27.0).reshape(9, 3),
        "actions": np.full((9, 2), 0.25),
        "rewards": np.arange(9.0),
        "terminals": np.arange(9) == 3,
        "timeouts": np.arange(9) == 6,
    }
    with h5py.File(path, "w") as file:
        for name, values in (columns | changes).items():
            if values is not None:
                file[name] = values
    return path


@pytest.fixture
def robot_file(tmp_path: Path) -> Path:
    path = tmp_path / "rover.yaml"
    path.write_text(ROBOT)
    return path


def test_d4rl_without_next_observations_invents_nothing(
    tmp_path: Path, robot_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign, out = foreign_d4rl(tmp_path / "f.hdf5"), tmp_path / "data.h5"
    assert call("import", foreign, "--format", "d4rl", "--out", out, "--robot", robot_file) == 0
    said = capsys.readouterr().out
    assert "2 transitions dropped" in said
    assert "1 episodes end in a terminal whose next observation the file does not hold" in said
    data = load_dataset(out)
    assert data.lengths.tolist() == [4, 2, 1]
    assert data.rewards.tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert data.terminals.nonzero()[0].tolist() == [3]
    assert data.timeouts.nonzero()[0].tolist() == [5, 6]
    assert data.final_observations[:, 0].tolist() == [9, 18, 24]
    assert data.metadata["imports"][0]["repeated_final_observations"] == [0]
    assert data.metadata["definitions"]["geometry_msgs/msg/Twist"]


def test_d4rl_with_next_observations_keeps_every_transition(
    tmp_path: Path, robot_file: Path
) -> None:
    following = np.arange(27.0).reshape(9, 3) + 100
    foreign = foreign_d4rl(tmp_path / "f.hdf5", next_observations=following)
    out = tmp_path / "data.h5"
    assert call("import", foreign, "--format", "d4rl", "--out", out, "--robot", robot_file) == 0
    data = load_dataset(out)
    assert data.lengths.tolist() == [4, 3, 2]
    assert data.final_observations[:, 0].tolist() == [109, 118, 124]


def test_commands_outside_the_limits_are_clipped_and_counted(
    tmp_path: Path, robot_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = foreign_d4rl(tmp_path / "f.hdf5", actions=np.full((9, 2), 1.0))
    out = tmp_path / "data.h5"
    assert call("import", foreign, "--format", "d4rl", "--out", out, "--robot", robot_file) == 0
    assert "7 commands outside the limits, clipped" in capsys.readouterr().out
    np.testing.assert_array_equal(load_dataset(out).actions, np.float32([[0.7, 1.0]] * 7))


def test_a_terminal_inside_an_episode_ends_it(tmp_path: Path, robot_file: Path) -> None:
    foreign, out = tmp_path / "f.hdf5", tmp_path / "data.h5"
    with h5py.File(foreign, "w") as file:
        demo = file.create_group("data/demo_0")
        demo["obs/pose"], demo["obs/turn"] = np.zeros((5, 2)), np.arange(5.0)[:, None]
        demo["next_obs/pose"], demo["next_obs/turn"] = np.zeros((5, 2)), np.arange(1, 6.0)[:, None]
        demo["actions"], demo["rewards"] = np.full((5, 2), [-1.0, 0.5]), np.ones(5)
        demo["dones"] = [0, 1, 0, 0, 0]
    words = ("import", foreign, "--format", "robomimic", "--out", out, "--robot", robot_file)
    assert call(*words) == 0
    data = load_dataset(out)
    assert data.lengths.tolist() == [2, 3]
    assert data.terminals.tolist() == [False, True, False, False, False]
    assert data.final_observations[:, 2].tolist() == [2, 5]
    # scaled by the limits, since robomimic's actions are shares of them
    np.testing.assert_allclose(data.actions, [[-0.3, 0.75]] * 5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"observations": np.zeros((9, 4))}, "4 wide, the robot file of 'rover' says 3"),
        ({"actions": np.zeros(9)}, "actions: 1 wide"),
        ({"observations": np.full((9, 3), np.nan)}, "observations[0, 0] is not finite (27 such"),
        ({"rewards": np.full(9, 1e300)}, "rewards[0] is not finite"),
        ({"rewards": np.zeros((9, 2))}, "shape (9, 2), expected one number per"),
        ({"rewards": np.zeros(8)}, "rows"),
        ({"actions": np.full((9, 2), b"left")}, "actions: not numbers"),
        ({"terminals": np.full(9, 3)}, "terminals: holds other values than 0 and 1"),
        ({"timeouts": None}, "no 'timeouts'"),
        ({"actions": None, "action": np.zeros((9, 2))}, "Did you mean 'action'?"),
        (
            {k: np.zeros((0, *n)) for k, n in (("observations", (3,)), ("actions", (2,)))}
            | {k: np.zeros(0) for k in ("rewards", "terminals", "timeouts")},
            "no transitions",
        ),
    ],
)
def test_bad_d4rl_files(
    changes: dict[str, object],
    sentence: str,
    tmp_path: Path,
    robot_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    foreign, out = foreign_d4rl(tmp_path / "f.hdf5", **changes), tmp_path / "data.h5"
    out.write_bytes(b"old")
    assert call("import", foreign, "--format", "d4rl", "--out", out, "--robot", robot_file) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "f.hdf5" in said
    assert out.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 3


def test_an_imported_dataset_has_the_suffix_of_one(
    tmp_path: Path, robot_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign, out = foreign_d4rl(tmp_path / "f.hdf5"), tmp_path / "data.txt"
    assert call("import", foreign, "--format", "d4rl", "--out", out, "--robot", robot_file) == 2
    assert f"--out {out}: must end in .h5 or .hdf5" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("name", FORMATS)
def test_garbage_and_other_formats_are_refused(
    name: str, tmp_path: Path, robot_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    garbage, other = tmp_path / "garbage", foreign_d4rl(tmp_path / "other.hdf5", timeouts=None)
    garbage.write_bytes(bytes(range(256)))
    (tmp_path / "empty").mkdir()
    for path in (garbage, other, tmp_path / "empty", tmp_path / "none"):
        tail = ("--format", name, "--out", tmp_path / "data.h5", "--robot", robot_file)
        assert call("import", path, *tail) == 2
        said = capsys.readouterr().err
        assert path.name in said
        assert "Traceback" not in said
    assert not (tmp_path / "data.h5").exists()


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_exports_are_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data.h5")
    out = export(tmp_path, name)
    files = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        code = call("import", out, "--format", name, "--out", tmp_path / "back.h5")
        if path.name not in ("stats.json", "tasks.parquet"):
            assert code == 2, path
            assert "Traceback" not in capsys.readouterr().err
        path.write_bytes(content)


def test_a_robot_file_is_needed_once_and_must_be_the_same(
    tmp_path: Path, robot_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign, out = foreign_d4rl(tmp_path / "f.hdf5"), tmp_path / "data.h5"
    assert call("import", foreign, "--format", "d4rl", "--out", out) == 2
    assert "no robot file inside. Give one with --robot FILE" in capsys.readouterr().err
    write_dataset(tmp_path / "data.h5")
    robot_file.write_text(ROBOT.replace("0.7", "0.8"))
    for name in FORMATS:
        tail = ("--format", name, "--out", tmp_path / "back.h5", "--robot", robot_file)
        assert call("import", export(tmp_path, name), *tail) == 2
        said = capsys.readouterr().err
        assert "0.7" in said
        assert "0.8" in said


def test_lerobot_rate_and_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data.h5")
    frames = export(tmp_path, "lerobot")
    info = json.loads((frames / "meta/info.json").read_text())
    cases: list[tuple[dict[str, object], str]] = [
        ({"fps": 30}, "30 fps, the robot file says 10 Hz"),
        ({"codebase_version": "v2.1"}, "codebase_version 'v2.1'"),
        ({"features": {"action": {"dtype": "float32"}}}, "no feature 'observation.state'"),
    ]
    for change, sentence in cases:
        (frames / "meta/info.json").write_text(json.dumps(info | change))
        tail = ("--format", "lerobot", "--out", tmp_path / "back.h5")
        assert call("import", frames, *tail) == 2
        assert sentence in capsys.readouterr().err


def test_minari_with_a_dictionary_of_observations(tmp_path: Path) -> None:
    ours = write_dataset(tmp_path / "data.h5")
    out = export(tmp_path, "minari")
    with h5py.File(out / "data" / "main_data.hdf5", "r+") as file:
        for group in file.values():
            whole = group["observations"][()]
            del group["observations"]
            group["observations/turn"], group["observations/pose"] = whole[:, 2:], whole[:, :2]
    assert call("import", out, "--format", "minari", "--out", tmp_path / "back.h5") == 0
    assert_same(ours, load_dataset(tmp_path / "back.h5"))


def test_what_is_there_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data.h5")
    data = (tmp_path / "data.h5").read_bytes()
    for name in ("minari", "lerobot"):
        out = export(tmp_path, name)
        assert call("export", tmp_path / "data.h5", "--format", name, "--out", out) == 2
        assert "exists. Remove it" in capsys.readouterr().err
    export(tmp_path, "d4rl")
    export(tmp_path, "d4rl")
    words = ("export", tmp_path / "data.h5", "--format", "d4rl", "--out", tmp_path / "data.h5")
    assert call(*words) == 2
    words = ("export", tmp_path / "data.h5", "--format", "minari", "--out", tmp_path / "rover")
    assert call(*words) == 2
    assert "as in rover-v0" in capsys.readouterr().err
    assert (tmp_path / "data.h5").read_bytes() == data


def test_a_failed_export_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data.h5")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for name in FORMATS:
        out = tmp_path / NAMES[name]
        assert call("export", tmp_path / "data.h5", "--format", name, "--out", out) == 2
        assert "cannot be written" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["data.h5"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_is_an_error_sentence(name: str, tmp_path: Path) -> None:
    """The largest size of a file stands for the disk."""
    write_dataset(tmp_path / "data.h5")
    out = export(tmp_path, name)
    before = sorted(path.name for path in tmp_path.iterdir())
    for words in (
        ("export", tmp_path / "data.h5", "--out", tmp_path / "twin-v0"),
        ("import", out, "--out", tmp_path / "back.h5"),
    ):
        command = [sys.executable, "-m", "offrl_contract.cli", "dataset", *map(str, words)]
        done = subprocess.run(
            [*command, "--format", name],
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        )
        assert done.returncode == 2, done.stderr
        assert "cannot be written" in done.stderr
        assert "Traceback" not in done.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_robomimic_refuses_actions_outside_the_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data.h5")
    with h5py.File(tmp_path / "data.h5", "r+") as file:
        file["actions"][2, 0] = 0.9
    words = ("export", tmp_path / "data.h5", "--format", "robomimic", "--out", tmp_path / "d.hdf5")
    assert call(*words) == 2
    assert "0.9 is outside the limits [-0.3, 0.7]" in capsys.readouterr().err


def test_lerobot_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data.h5")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    words = ("export", tmp_path / "data.h5", "--format", "lerobot", "--out", tmp_path / "frames")
    assert call(*words) == 2
    assert "pip install 'offrl[formats]'" in capsys.readouterr().err
    assert not (tmp_path / "frames").exists()


def test_lerobot_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = write_dataset(tmp_path / "data.h5")
    monkeypatch.setattr(lerobot, "_MEGABYTES_PER_FILE", 0.0005)
    frames = export(tmp_path, "lerobot")
    assert len(list((frames / "data").rglob("*.parquet"))) == 2
    assert call("import", frames, "--format", "lerobot", "--out", tmp_path / "back.h5") == 0
    assert_same(ours, load_dataset(tmp_path / "back.h5"))
