"""`offrl train` as a user meets it: bad input, signals, resume."""

import csv
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from kill_at import run_and_kill
from offrl_contract import Robot, cli
from offrl_data.dataset_writer import DatasetWriter
from offrl_training import checkpoint
from offrl_training.algorithms import ALGORITHMS
from offrl_training.run import load_run

from .conftest import Make
from .test_algorithms import differing

SMALL = ["--hidden", "8", "8", "--batch", "16"]


def train(*arguments: object) -> int:
    return cli.run(["train", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run, expect exit code 2, and return what it said."""
    assert train(*arguments) == cli.EXIT_BAD_INPUT
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ALGORITHMS)
def test_train_writes_a_run(name: str, path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train(name, path, "--out", out, "--steps", 10, "--seed", 3, *SMALL) == 0
    assert {entry.name for entry in out.iterdir()} == {
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "robot.yaml",
        "tensorboard",
    }
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["algorithm"] == name
    assert config["training"]["seed"] == 3
    assert config["parameters"]["hidden"] == [8, 8]
    assert len(config["held_out_episodes"]) == 2
    row = (out / "metrics.csv").read_text().splitlines()
    assert "held_out_action_error" in row[0]
    assert row[1].startswith("10,")
    assert list((out / "tensorboard").glob("events*"))


def test_help_lists_each_setting_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        train("iql", "--help")
    assert leaving.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--expectile" in text
    assert "eq. 5" in text
    assert "--held-out" in text


def test_help_lists_the_algorithms(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((["--help"], 0), ([], 2)):
        with pytest.raises(SystemExit) as leaving:
            train(*arguments)
        assert leaving.value.code == code
        lines = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
        assert [line[0] for line in lines] == list(ALGORITHMS)
        assert all(len(line) > 5 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--expectile", "1.5"], "error: --expectile: Input should be less than 1, got 1.5"),
        (["--hidden", "0"], "error: --hidden: Input should be greater than 0, got 0"),
        (["--seed", str(2**64)], "Input should be less than 4294967296"),
        (["--expectil", "0.5"], "Perhaps you meant: --expectile"),
    ],
)
def test_wrong_arguments_leave_with_2(
    arguments: list[str],
    sentence: str,
    path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as leaving:
        train("iql", path, "--out", tmp_path / "run", *arguments)
    assert leaving.value.code == 2
    told = " ".join(capsys.readouterr().err.replace("│", "").split())
    assert sentence in told
    assert "pydantic" not in told
    assert not (tmp_path / "run").exists()


def test_an_unknown_algorithm_is_named(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "iqq", path, "--out", "run")
    assert said == "error: offrl train: unknown algorithm 'iqq'. Did you mean 'iql'?\n"


def test_settings_from_a_file_and_options_over_them(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "iql.yaml"
    file.write_text("steps: 4\nheld-out: 0.5\nexpectile: 0.9\nbeta: 1e+1\nhidden: [8, 4]\n")
    base = ["iql", path, "--config", file, "--out"]
    assert train(*base, tmp_path / "a", "--expectile", "0.8", "--batch", "16") == 0
    saved = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert saved["training"] | {"steps": 4, "held_out": 0.5, "batch": 16} == saved["training"]
    expected = {"expectile": 0.8, "beta": 10.0, "hidden": [8, 4], "gamma": 0.99}
    assert saved["parameters"] | expected == saved["parameters"]

    again = ["iql", path, "--config", tmp_path / "a" / "config.yaml", "--out", tmp_path / "b"]
    assert train(*again) == 0  # what was saved makes the same run
    first, second = (load_run(tmp_path / name).algorithm.state_dict() for name in ("a", "b"))
    assert differing(first, second) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("expectil: 0.9", "s.yaml: expectil: unknown key. Did you mean 'expectile'?"),
        ("stepps: 9", "s.yaml: stepps: unknown key. Did you mean 'steps'?"),
        ("alpha: 2.5", "s.yaml: alpha: unknown key."),  # of td3_bc
        ("expectile: 1.5", "s.yaml: expectile: Input should be less than 1, got 1.5"),
        ("batch: many", "s.yaml: batch: Input should be a valid integer"),
        ("hidden: []", "s.yaml: hidden: Tuple should have at least 1 item"),
        ("- steps", "s.yaml: not a mapping"),
        ("steps: [", "s.yaml: not YAML"),
        ("{algorithm: bc, parameters: {}, training: {}}", "s.yaml: algorithm: a run of 'bc'"),
    ],
)
def test_a_wrong_file_of_settings_is_refused(
    text: str, sentence: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    said = refused(capsys, "iql", path, "--out", tmp_path / "run", "--config", file)
    assert sentence in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_a_missing_file_of_settings_is_refused(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["iql", path, "--out", tmp_path / "run"]
    assert "none.yaml: cannot be read" in refused(capsys, *base, "--config=none.yaml")


def test_progress_is_one_line_per_log_where_nobody_watches(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["bc", path, "--steps", 25, "--log-every", 10, *SMALL]
    assert train(*base, "--out", tmp_path / "run") == 0
    lines = capsys.readouterr().out.splitlines()
    progress = r"step (\d+) of 25: \d+ steps/s, 0:\d\d:\d\d left"
    steps = [match[1] for line in lines[1:-1] if (match := re.fullmatch(progress, line))]
    assert steps == ["10", "20", "25"]
    assert len(lines) == 5


def test_bad_datasets_are_refused(
    path: Path, robot: Robot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert "no such dataset" in refused(capsys, "bc", tmp_path / "none.h5", "--out", out)
    assert "is a folder; a dataset is one file" in refused(capsys, "bc", tmp_path, "--out", out)
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    assert "not an offrl dataset" in refused(capsys, "bc", text, "--out", out)
    empty = tmp_path / "empty.h5"
    with DatasetWriter(empty, robot) as writer:
        writer.finish({})
    assert "no transitions" in refused(capsys, "bc", empty, "--out", out)
    broken = tmp_path / "nan.h5"
    broken.write_bytes(path.read_bytes())
    with h5py.File(broken, "a") as file:
        file["rewards"][3] = np.nan
    assert "rewards[3] is not finite" in refused(capsys, "bc", broken, "--out", out)
    assert not out.exists()


def test_another_robot_file_is_refused(
    path: Path, robot: Robot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(robot.to_yaml().replace("rate: 5.0", "rate: 10.0"))
    said = refused(capsys, "bc", path, "--out", tmp_path / "run", "--robot", other)
    assert "another robot file" in said
    assert "rate: 10.0" in said
    assert not (tmp_path / "run").exists()
    same = tmp_path / "same.yaml"
    same.write_text("# a comment changes nothing\n" + robot.to_yaml())
    out = tmp_path / "run"
    assert train("bc", path, "--out", out, "--robot", same, "--steps", 2, *SMALL) == 0


def test_a_full_folder_is_refused_without_resume(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("keep me")
    assert "not empty" in refused(capsys, "bc", path, "--out", tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    assert "is a file" in refused(capsys, "bc", path, "--out", tmp_path / "thesis.tex")
    long = tmp_path / ("n" * 300)
    for more in ([], ["--resume"], ["--seeds", "2"]):
        assert "name too long" in refused(capsys, "bc", path, "--out", long, *more)


def test_resume_refuses_other_settings_and_other_data(
    path: Path, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    base = ["--out", out, "--steps", 4, "--resume", *SMALL]
    assert train("iql", path, *base) == 0  # nothing to resume yet: a new run
    said = refused(capsys, "iql", path, *base, "--expectile", "0.9")
    assert "parameters.expectile is 0.9, was 0.7" in said
    said = refused(capsys, "iql", path, *base, "--seed", "1")
    assert "training.seed is 1, was 0" in said
    assert "algorithm is bc, was iql" in refused(capsys, "bc", path, *base)
    assert "dataset_digest is" in refused(capsys, "iql", make(seed=5), *base)
    assert checkpoint.steps_of(out) == [4]


def test_one_episode_is_trained_on_and_said(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train("bc", make(episodes=1), "--out", out, "--steps", 2, *SMALL) == 0
    assert "none held out, because the dataset has only one" in capsys.readouterr().out
    assert len(load_run(out).held_out_episodes) == 0
    assert "held_out" not in (out / "metrics.csv").read_text()


def stop_at_checkpoint(arguments: list[str], out: Path, number: signal.Signals) -> int:
    """Start a training process, signal it at its next checkpoint, return its exit code."""
    before = len(checkpoint.steps_of(out)) and checkpoint.steps_of(out)[-1]
    code = "from offrl_contract.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "train", *arguments], stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60.0
    while not (steps := checkpoint.steps_of(out)) or steps[-1] == before:
        assert process.poll() is None, "it ended before its next checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    return process.wait(timeout=60.0)


def test_a_run_that_was_stopped_terminated_and_killed_ends_the_same(
    path: Path, tmp_path: Path
) -> None:
    steps, every = 1000, 50
    common = ["iql", str(path), "--steps", str(steps), "--checkpoint-every", str(every), *SMALL]
    assert train(*common, "--out", tmp_path / "straight") == 0
    out = tmp_path / "stopped"
    again = [*common, "--out", str(out), "--resume"]
    assert stop_at_checkpoint(again, out, signal.SIGINT) == cli.EXIT_INTERRUPTED
    assert stop_at_checkpoint(again, out, signal.SIGTERM) == 128 + signal.SIGTERM
    assert stop_at_checkpoint(again, out, signal.SIGKILL) == -signal.SIGKILL
    assert checkpoint.steps_of(out)[-1] < steps
    assert train(*again) == 0
    straight, stopped = load_run(tmp_path / "straight"), load_run(out)
    assert stopped.step == steps
    assert differing(straight.algorithm.state_dict(), stopped.algorithm.state_dict()) == []
    assert differing(straight.gate_critics.state_dict(), stopped.gate_critics.state_dict()) == []


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_resumes_to_the_bit_after_a_kill(
    name: str, path: Path, tmp_path: Path
) -> None:
    kind = ALGORITHMS[name].config_type
    widths = {key: [8, 8] for key in kind.model_fields if key.endswith("hidden")}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(widths))
    common = [name, path, "--config", tmp_path / "s.yaml", "--steps", 30, "--batch", 16]
    common += ["--log-every", 5, "--checkpoint-every", 10]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert train(*common, "--out", straight) == 0
    again = ["train", *map(str, common), "--out", str(killed), "--resume"]
    assert run_and_kill(again, 17) == -signal.SIGKILL
    assert checkpoint.steps_of(killed) == [10]
    assert rows(killed)[-1]["step"] == "15"  # ahead of the checkpoint
    assert cli.run(again) == 0
    first, second = (checkpoint.load(folder, 30) for folder in (straight, killed))
    assert first.keys() == second.keys()
    assert unequal(first, second) == []
    assert rows(straight) == rows(killed)
    assert [row["step"] for row in rows(killed)] == ["5", "10", "15", "20", "25", "30"]


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, but for the speed."""
    with (folder / "metrics.csv").open() as file:
        return [{**row, "steps_per_second": ""} for row in csv.DictReader(file)]


def unequal(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two states differ, bit for bit."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [where]
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        return [found for key in a for found in unequal(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, list | tuple):
        assert len(a) == len(b), where
        pairs = enumerate(zip(a, b, strict=True))
        return [found for i, pair in pairs for found in unequal(*pair, f"{where}[{i}]")]
    return [] if a == b else [where]
