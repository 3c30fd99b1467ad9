"""`offrl finetune` in a task of the simulator, under a profile."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from offrl_contract import cli
from offrl_data.dataset import Episode
from offrl_data.dataset_writer import DatasetWriter
from offrl_sim.env import TaskEnv
from offrl_training.run import load_run

QUICK = ["--steps", "20", "--warm-up", "10", "--evaluate-episodes", "1", "--rollback", "None"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data.h5 of a car that drives at random, and a run on it."""
    folder = tmp_path_factory.mktemp("trained")
    env, random = TaskEnv("RacecarTrack"), np.random.default_rng(0)
    low, high = np.array(env.robot.limits).T
    with DatasetWriter(folder / "data.h5", env.robot) as writer:
        for seed in range(3):
            observation, _ = env.reset(seed=seed)
            seen, commands, rewards, terminal = [observation], [], [], False
            while len(rewards) < 40 and not terminal:
                observation, reward, terminal, _, info = env.step(random.uniform(low, high))
                seen.append(observation)
                commands.append(info["command"])
                rewards.append(reward)
            columns = np.array(seen), np.array(commands), np.array(rewards, np.float32)
            writer.append(Episode(*columns, terminal, "random"))
        writer.finish({})
    env.close()
    words = ["train", "bc", folder / "data.h5", "--out", folder / "run", "--steps", 20]
    assert cli.run([*map(str, words), "--hidden", "8", "8", "--batch", "16"]) == 0
    return folder


def finetune(trained: Path, out: Path, *arguments: object) -> int:
    words = ["finetune", trained / "run", "--env", "offrl/RacecarTrack-v0", "--out", out, *QUICK]
    return cli.run([*map(str, words), *map(str, arguments)])


def test_a_task_is_found_by_its_id(trained: Path, tmp_path: Path) -> None:
    profile = tmp_path / "shift.yaml"
    profile.write_text("action_latency: 0.05\n")
    assert finetune(trained, tmp_path / "out", "--profile", profile) == 0
    assert load_run(tmp_path / "out").step == 30
    settings = yaml.safe_load((tmp_path / "out" / "finetune.yaml").read_text())
    assert settings["profile"] == "shift.yaml"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("action_latency: 0.1\nobservation_jitter: [0.0, 0.05]\n", ["3 ticks", "history: 3"]),
        ("action_latncy: 0.05\n", ["shift.yaml", "action_latncy", "Did you mean"]),
        ("action_latency: 7.0\n", ["shift.yaml", "action_latency"]),
        (None, ["shift.yaml", "cannot be read"]),
    ],
)
def test_a_profile_that_does_not_fit(
    content: str | None,
    words: list[str],
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    profile = tmp_path / "shift.yaml"
    if content is not None:
        profile.write_text(content)
    assert finetune(trained, tmp_path / "out", "--profile", profile) == cli.EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert not (tmp_path / "out").exists()
