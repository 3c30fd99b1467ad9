"""`offrl finetune` as a user meets it: a run that goes on in an environment, and bad input."""

import csv
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from kill_at import run_and_kill
from offrl_contract import cli
from offrl_policy.policy_file import Policy
from offrl_training import checkpoint
from offrl_training.run import load_run

from .conftest import Make
from .test_algorithms import differing

SMALL = ["--hidden", "16", "16", "--batch", "32", "--steps", "60", "--gamma", "0.9"]
ONLINE = ["--steps", "80", "--warm-up", "40", "--evaluate-every", "40", "--log-every", "20"]
QUICK = [*ONLINE, "--evaluate-episodes", "2"]
POINT = "finetune_envs:Point-v0"


@pytest.fixture(scope="module")
def trained(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data.h5 and a short run of each algorithm that the tests go on with."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "data.h5").write_bytes(make().read_bytes())
    for name in ("cal_ql", "iql", "td3_bc", "spibb", "rlpd"):
        assert (
            cli.run(["train", name, str(folder / "data.h5"), "--out", str(folder / name), *SMALL])
            == 0
        )
    return folder


def finetune(run: Path, out: Path, *arguments: object, env: str = POINT) -> int:
    words = [run, "--env", env, "--out", out, *arguments]
    return cli.run(["finetune", *map(str, words)])


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["cal_ql", "iql", "td3_bc"])
def test_a_run_goes_on(name: str, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert finetune(trained / name, out, *QUICK) == 0
    written = {entry.name for entry in out.iterdir()}
    assert written >= {"config.yaml", "robot.yaml", "finetune.yaml", "replay.bin", "curve.png"}
    steps = [int(row["step"]) for row in rows(out)]
    assert steps == [0, 20, 40, 60, 80, 100, 120]
    evaluated = [int(row["step"]) for row in rows(out) if row["eval_return"]]
    assert evaluated == [0, 80, 120]
    assert {"dip", "bound_rate", "online_return", "eval_success"} <= rows(out)[0].keys()
    before, after = load_run(trained / name), load_run(out)
    assert after.algorithm_name == name
    assert after.step == 120
    assert after.dataset_digest == before.dataset_digest
    assert after.held_out_episodes.tolist() == before.held_out_episodes.tolist()
    assert yaml.safe_load((out / "finetune.yaml").read_text())["env"] == POINT


def test_nothing_is_learned_in_the_warm_up(trained: Path, tmp_path: Path) -> None:
    finetune(trained / "cal_ql", tmp_path / "a", *QUICK)
    row = rows(tmp_path / "a")
    assert [bool(each["q_loss"]) for each in row] == [False, False, False, True, True, True, True]
    evaluations = json.loads((tmp_path / "a" / "evaluations.json").read_text())
    assert [each["step"] for each in evaluations] == [0, 80, 120]


def test_the_buffer_holds_commands_in_force_and_returns_to_go(
    trained: Path, tmp_path: Path
) -> None:
    """The point's base limits commands to -0.4 and 1.4, which are -0.9 and 0.9 of the robot's."""
    out = tmp_path / "out"
    finetune(trained / "td3_bc", out, *QUICK, "--noise", "2.0")
    count = checkpoint.load(out, 120)["sampler"]["online"]
    packed = np.fromfile(out / "replay.bin", np.float32).reshape(-1, 6)[:count]
    s, a, r, discount, after, returns = packed.T
    assert 75 <= count <= 120
    assert np.abs(a).max() == pytest.approx(0.9, abs=1e-4)
    assert np.mean(np.abs(a) > 0.899) > 0.2
    end = np.flatnonzero(~np.isclose(s[1:], after[:-1]))[0] + 1  # of the first episode
    # after a timeout its mean reward goes on
    following = r[:end].mean() / (1.0 - 0.9) if discount[end - 1] > 0.0 else 0.0
    for k in reversed(range(end)):
        following = r[k] + 0.9 * following
        assert returns[k] == pytest.approx(following, rel=1e-4)


def test_a_crash_of_the_environment_does_not_end_the_run(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert finetune(trained / "iql", out, *QUICK, env="finetune_envs:Crashing-v0") == 0
    assert float(rows(out)[-1]["env_crashes"]) >= 2
    assert load_run(out).step == 120


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("finetune_envs:Broken-v0", ["died", "times in a row"]),
        ("finetune_envs:Other-v0", ["another robot file", "+ --env"]),
        ("finetune_envs:Slow-v0", ["5 ticks", "history: 5", "source: action"]),
        ("finetune_envs:Wide-v0", ["observations have the shape (3,)", "(1,)"]),
        ("finetune_envs:Pont-v0", ["Pont"]),
        ("nowhere/Point-v0", ["nowhere"]),
    ],
)
def test_an_environment_that_does_not_fit(
    env: str, words: list[str], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = finetune(trained / "iql", tmp_path / "out", *QUICK, env=env)
    said = capsys.readouterr().err
    assert code == cli.EXIT_BAD_INPUT, said
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "wsrl"], ["wsrl", "cql, cal_ql or sac", "iql"]),
        (["--data", "no.h5"], ["no.h5"]),
        (["--out", "."], ["not empty"]),
    ],
)
def test_bad_input(
    arguments: list[str],
    words: list[str],
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(trained)
    code = finetune(trained / "iql", tmp_path / "out", *QUICK, *arguments)
    said = capsys.readouterr().err
    assert code == cli.EXIT_BAD_INPUT, said
    assert all(word in said for word in words), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("--save-every=-5", "greater than or equal to 0"),
        (f"--seed={2**64}", "less than 4294967296"),
    ],
)
def test_numbers_out_of_range_leave_with_2(
    wrong: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.run(["finetune", "run", "--env", POINT, wrong])
    assert leaving.value.code == cli.EXIT_BAD_INPUT
    assert sentence in " ".join(capsys.readouterr().err.replace("│", "").split())


def test_an_algorithm_that_counts_its_dataset_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(trained / "spibb", tmp_path / "out", *QUICK) == cli.EXIT_BAD_INPUT
    assert "spibb" in capsys.readouterr().err


def test_ten_critics_are_no_beginning_for_wsrl(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = finetune(trained / "rlpd", tmp_path / "out", *QUICK, "--method", "wsrl")
    assert code == cli.EXIT_BAD_INPUT
    assert "of cql, cal_ql or sac, not of rlpd" in capsys.readouterr().err


def test_another_dataset_is_refused(
    trained: Path, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make(seed=7)
    code = finetune(trained / "iql", tmp_path / "out", *QUICK, "--data", other)
    assert code == cli.EXIT_BAD_INPUT
    assert "another dataset" in capsys.readouterr().err


def test_a_fall_puts_the_best_networks_back(trained: Path, tmp_path: Path) -> None:
    """With a tolerance of 0, the last checkpoint drives as the best evaluation did."""
    out = tmp_path / "out"
    finetune(trained / "td3_bc", out, *QUICK, "--rollback", "0.0")
    evaluations = json.loads((out / "evaluations.json").read_text())
    scores = [np.mean(each["returns"]) for each in evaluations]
    best, last = int(np.argmax(scores)), len(scores) - 1
    rolled = [float(row["rolled_back"]) for row in rows(out) if row["rolled_back"]]
    running = np.maximum.accumulate(scores)
    assert rolled == [
        0.0,
        *(float(now < seen) for now, seen in zip(scores[1:], running, strict=False)),
    ]
    state = checkpoint.load(out, 120)
    same = all(
        torch.equal(value, state["online"]["best"]["algorithm"][name])
        for name, value in state["algorithm"].items()
        if torch.is_tensor(value)
    )
    assert same
    assert best <= last


def test_a_killed_run_resumes_to_the_last_bit(trained: Path, tmp_path: Path) -> None:
    """Killed in the middle of an episode, one step after a checkpoint."""
    outs = [tmp_path / "straight", tmp_path / "killed"]
    assert finetune(trained / "cal_ql", outs[0], *QUICK) == 0
    words = [trained / "cal_ql", "--env", POINT, "--out", outs[1], *QUICK, "--save-every", "0"]
    arguments = ["finetune", *map(str, words)]
    assert run_and_kill(arguments, 60 + 47) == -signal.SIGKILL  # 60 offline, 47 online
    last = checkpoint.steps_of(outs[1])[-1]
    assert last == 40 + 46
    assert len(checkpoint.load(outs[1], last)["online"]["driver"]["rewards"]) % 25 > 0
    assert cli.run([*arguments, "--resume"]) == 0

    assert [timeless(row) for row in rows(outs[0])] == [timeless(row) for row in rows(outs[1])]
    straight, resumed = (checkpoint.load(out, 120) for out in outs)
    for part in ("algorithm", "gate_critics"):
        assert differing(straight[part], resumed[part]) == []
    assert torch.equal(straight["generator"], resumed["generator"])
    count = straight["sampler"]["online"]
    assert count == resumed["sampler"]["online"] > 50
    old, new = (np.fromfile(out / "replay.bin", np.float32)[: 6 * count] for out in outs)
    assert np.array_equal(old, new)
    texts = [(out / "evaluations.json").read_text() for out in outs]
    assert texts[0] == texts[1]


def timeless(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name != "steps_per_second"}


def test_resume_refuses_other_settings(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert finetune(trained / "iql", out, *QUICK) == 0
    assert finetune(trained / "iql", out, *QUICK, "--resume") == 0
    assert finetune(trained / "iql", out, *QUICK, "--noise", "0.3", "--resume") == 2
    assert "noise is 0.3, was 0.1" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["wsrl", "rlpd", "sac"])
def test_other_methods(method: str, trained: Path, tmp_path: Path) -> None:
    """WSRL begins as the policy of the run, the others anew; none but RLPD has the dataset."""
    out = tmp_path / "out"
    quick = ["--steps", "30", "--warm-up", "30", "--evaluate-episodes", "1", "--preset", "small"]
    assert finetune(trained / "cal_ql", out, *quick, "--method", method) == 0
    before, after = load_run(trained / "cal_ql"), load_run(out)
    assert after.algorithm_name == {"rlpd": "rlpd"}.get(method, "sac")
    assert after.training.batch == 128
    assert after.config.hidden == ((16, 16) if method == "wsrl" else (128, 128))
    first = checkpoint.load(out, 0)["algorithm"]
    if method == "wsrl":
        assert differing(first, {name: before.algorithm.state_dict()[name] for name in first}) == []


def test_a_finetuned_run_can_be_exported(trained: Path, tmp_path: Path) -> None:
    out, policy = tmp_path / "out", tmp_path / "policy.onnx"
    assert finetune(trained / "iql", out, *QUICK) == 0
    words = ["export", out, "--data", trained / "data.h5", "--out", policy, "--alpha", "0.4"]
    assert cli.run([*map(str, words)]) == 0
    answer = Policy(policy).run(np.float32([9.5]))
    expected = load_run(out).algorithm.act(torch.tensor([[9.5]])).detach().numpy()[0]
    assert answer.action == pytest.approx(expected, abs=1e-5)


def test_preset_changes_the_sampled_actions(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quick = ["--steps", "1", "--warm-up", "0", "--evaluate-episodes", "1"]
    assert finetune(trained / "cal_ql", out, *quick, "--preset", "small") == 0
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["parameters"]["samples"] == 4
    assert config["parameters"]["hidden"] == [16, 16]
    assert config["training"]["batch"] == 128


def test_the_penalty_may_weigh_less_online(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--steps", "1", "--warm-up", "0", "--evaluate-episodes", "1"]
    lighter = [*quick, "--penalty-weight", "0.5"]
    assert finetune(trained / "cal_ql", tmp_path / "same", *quick) == 0
    assert finetune(trained / "cal_ql", tmp_path / "out", *lighter) == 0
    weights = [load_run(tmp_path / name).config.weight for name in ("same", "out")]
    assert weights == [load_run(trained / "cal_ql").config.weight, 0.5]
    same, out = (checkpoint.load(tmp_path / name, 1)["algorithm"] for name in ("same", "out"))
    assert any(name.startswith("q.") for name in differing(same, out))
    capsys.readouterr()
    assert finetune(trained / "iql", tmp_path / "no", *lighter) == 2
    assert "--penalty-weight 0.5: of cql and cal_ql that continue; this is" in (
        capsys.readouterr().err
    )
    assert finetune(trained / "cal_ql", tmp_path / "no", *lighter, "--method", "sac") == 2
    assert not (tmp_path / "no").exists()
