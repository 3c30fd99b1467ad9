"""Several bags at once, interruption and resuming: always the same rows, never half a file."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from offrl_contract import InputError, Robot, robot_from_yaml
from offrl_data.bags import Bag
from offrl_data.conversion import _Task, convert_bags
from offrl_data.dataset import load_dataset
from offrl_data.message_definitions import MessageDefinitions

from .conftest import ROBOT, BagMaker, drive


def some_bags(make_bag: BagMaker) -> list[Path]:
    kinds = ("mcap", "db3", "bag", "mcap")
    return [
        make_bag(drive(6.0 + k, start=100.0 * k), name=f"bag{k}", kind=kind)
        for k, kind in enumerate(kinds)
    ]


def command(bags: list[Path], robot: Path, out: Path, *options: str) -> list[str]:
    convert = [sys.executable, "-m", "offrl_contract.cli", "convert", *map(str, bags)]
    return [*convert, "--robot", str(robot), "--out", str(out), *options]


@pytest.fixture
def robot_file(tmp_path: Path) -> Path:
    path = tmp_path / "test.yaml"
    path.write_text(ROBOT)
    return path


def test_the_dataset_does_not_depend_on_jobs(
    make_bag: BagMaker, robot: Robot, tmp_path: Path
) -> None:
    bags = some_bags(make_bag)
    one = convert_bags(bags, robot, tmp_path / "one.h5", jobs=1)
    three = convert_bags(bags, robot, tmp_path / "three.h5", jobs=3)
    assert [report.as_dict() for report in one] == [report.as_dict() for report in three]
    first, second = load_dataset(tmp_path / "one.h5"), load_dataset(tmp_path / "three.h5")
    assert first.digest == second.digest
    assert first.sources == second.sources == ("bag0", "bag1", "bag2.bag", "bag3")
    assert not list(tmp_path.glob(".*"))


def test_a_bag_gives_its_rows_in_any_company(
    make_bag: BagMaker, robot: Robot, tmp_path: Path
) -> None:
    bags = some_bags(make_bag)
    convert_bags(bags[::-1], robot, tmp_path / "all.h5")
    whole = load_dataset(tmp_path / "all.h5")
    for index, bag in enumerate(bags):
        convert_bags([bag], robot, tmp_path / "own.h5")
        own = load_dataset(tmp_path / "own.h5").episode(0)
        other = whole.episode(len(bags) - 1 - index)
        assert own.source == other.source == bag.name
        assert (own.observations == other.observations).all()
        assert (own.rewards == other.rewards).all()


@pytest.mark.parametrize("jobs", [1, 2])
def test_resume_keeps_the_bags_that_are_done(
    jobs: int, make_bag: BagMaker, robot: Robot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bags = some_bags(make_bag)
    out = tmp_path / "data.h5"
    opened: list[str] = []

    def interrupted(fraction: float) -> None:
        if fraction == 1.0 or len(opened) > 2:
            raise KeyboardInterrupt

    original = Bag.digest

    def digest(bag: Bag) -> str:
        opened.append(bag.name)
        return original(bag)

    monkeypatch.setattr(Bag, "digest", digest)
    with pytest.raises(KeyboardInterrupt):
        convert_bags(bags, robot, out, jobs=jobs, advance=interrupted)
    assert not out.exists()
    done = len(list((tmp_path / ".data.h5.parts").glob("*.h5")))
    assert 1 <= done < len(bags)
    opened.clear()
    convert_bags(bags, robot, out, resume=True)
    assert len(opened) == len(bags) - done
    convert_bags(bags, robot, tmp_path / "fresh.h5")
    assert load_dataset(out).digest == load_dataset(tmp_path / "fresh.h5").digest
    assert not list(tmp_path.glob(".*"))


def test_a_late_bag_with_an_error_leaves_the_bags_that_are_done(
    make_bag: BagMaker, robot: Robot, tmp_path: Path
) -> None:
    bags = [make_bag(drive(6.0), name="good"), make_bag(drive(6.0), name="bad")]
    (storage,) = bags[1].glob("*.mcap")
    whole = storage.read_bytes()
    storage.write_bytes(whole[:-1000])
    with pytest.raises(InputError, match="--resume keeps the bags that are done"):
        convert_bags(bags, robot, tmp_path / "data.h5", strict=True)
    assert len(list((tmp_path / ".data.h5.parts").glob("*.h5"))) == 1
    storage.write_bytes(whole)
    convert_bags(bags, robot, tmp_path / "data.h5", strict=True, resume=True)
    assert not (tmp_path / ".data.h5.parts").exists()


def test_resume_does_not_trust_parts_of_other_bags_or_robots(
    make_bag: BagMaker, robot: Robot, tmp_path: Path
) -> None:
    bags = some_bags(make_bag)
    out = tmp_path / "data.h5"

    def interrupted(fraction: float) -> None:
        if fraction == 1.0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_bags(bags, robot, out, jobs=2, advance=interrupted)
    for part in (tmp_path / ".data.h5.parts").glob("*.h5"):
        part.write_bytes(b"")  # would be an error if it were read
    other = robot.model_copy(update={"reward": "next_pose_0"})
    convert_bags(bags, other, out, resume=True)
    assert len(load_dataset(out)) > 0


def test_resume_does_not_trust_parts_of_an_edited_reward_or_definition(
    make_bag: BagMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag, msgs = make_bag(drive(6.0)), tmp_path / "my" / "msg"
    msgs.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    text = ROBOT.replace("next_pose_0 - pose_0 + 100 * cmd", "python:rewards_of_mine:reward")
    python = robot_from_yaml(text, "test")

    def key(value: int, scale: int = 1) -> str:
        importing = "from rewards_helpers.deep import near\n"
        (tmp_path / "rewards_of_mine.py").write_text(f"{importing}def reward(*_): return {value}")
        (tmp_path / "rewards_helpers" / "scales.py").write_text(f"SCALE = {scale}\n")
        (msgs / "A.msg").write_text("float64 x\n")
        return _Task(python, MessageDefinitions(msgs=tmp_path), False, False).key(bag)

    (tmp_path / "rewards_helpers" / "deep").mkdir(parents=True)
    (tmp_path / "rewards_helpers" / "deep" / "__init__.py").touch()
    (tmp_path / "rewards_helpers" / "deep" / "near.py").write_text(
        "import numpy as np\n\ndef far():\n    from ..scales import SCALE\n    return SCALE\n"
    )
    assert key(1) == key(1) != key(2)
    assert key(1) != key(1, scale=2)
    before = key(1)
    (msgs / "A.msg").write_text("float64 y\n")
    assert _Task(python, MessageDefinitions(msgs=tmp_path), False, False).key(bag) != before


def test_killed_with_jobs_leaves_no_process_and_resumes(
    robot_file: Path, make_bag: BagMaker
) -> None:
    bags = [make_bag(drive(200.0), name=f"long{k}") for k in range(6)]
    out = robot_file.with_name("data.h5")
    out.write_bytes(b"old")
    process = subprocess.Popen(
        command(bags, robot_file, out, "--jobs", "2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    parts = out.with_name(".data.h5.parts")
    limit = time.monotonic() + 60
    while not list(parts.glob("*.h5")) and time.monotonic() < limit:
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert out.read_bytes() == b"old"
    limit = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < limit, "a worker outlives its parent"
        time.sleep(0.1)
    subprocess.run(
        command(bags, robot_file, out, "--resume"), check=True, stdout=subprocess.DEVNULL
    )
    assert len(load_dataset(out).lengths) == 6
    assert not parts.exists()


def test_a_full_disk_is_an_error_sentence_and_resumes(robot_file: Path, make_bag: BagMaker) -> None:
    """The largest size of a file stands for the disk."""
    bags = [make_bag(drive(20.0), name="short"), make_bag(drive(600.0), name="long")]
    out = robot_file.with_name("data.h5")

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    run = subprocess.run(
        command(bags, robot_file, out), capture_output=True, text=True, preexec_fn=small
    )
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert "data.h5: cannot be written" in run.stderr
    assert "--resume" in run.stderr
    assert not out.exists()
    subprocess.run(
        command(bags, robot_file, out, "--resume"), check=True, stdout=subprocess.DEVNULL
    )
    assert h5py.is_hdf5(out)


def test_two_conversions_to_one_file_are_refused(
    make_bag: BagMaker, robot: Robot, tmp_path: Path
) -> None:
    bags = some_bags(make_bag)
    out = tmp_path / "data.h5"

    def meanwhile(_: float) -> None:
        finished = set((tmp_path / ".data.h5.parts").iterdir())
        with pytest.raises(InputError, match="another conversion writes it now"):
            convert_bags(bags, robot, out)
        assert set((tmp_path / ".data.h5.parts").iterdir()) == finished

    convert_bags(bags, robot, out, advance=meanwhile)
