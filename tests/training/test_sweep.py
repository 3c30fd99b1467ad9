"""Sweeps on a real Ray: plan, retries, what is kept after an interruption, table and page."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import MEASURE, Browser, find_chromium
from offrl_contract import InputError, cli
from offrl_contract.settings import validated
from offrl_training import checkpoint
from offrl_training.algorithms.iql import IQLConfig
from offrl_training.run import load_run
from offrl_training.sweep.page import sweep_page
from offrl_training.sweep.plan import SweepConfig, Trial, load_plan, plan
from offrl_training.sweep.results import Result, metric_names, read_results
from offrl_training.sweep.trials import Outcome, cluster, run_trials

from .test_algorithms import differing

SWEEP: dict[str, Any] = {
    "algorithms": {"bc": None, "td3_bc": {"alpha": [1.0, 2.5]}, "iql": {"beta": [0.0]}},
    "seeds": [0, 1],
    "options": {"steps": 200, "log-every": 40, "checkpoint_every": 40, "hidden": [8, 8]},
}
NAMES = [
    f"{configuration}_seed-{seed}"
    for configuration in ("bc", "td3_bc_alpha-1.0", "td3_bc_alpha-2.5", "iql_beta-0.0")
    for seed in (0, 1)
]


def planned(content: dict[str, Any]) -> list[Trial]:
    return plan(validated(SweepConfig, content, "s.yaml"), "s.yaml")


def write(content: dict[str, Any], folder: Path) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "sweep.csv").open() as file:
        return {row["trial"]: row for row in csv.DictReader(file)}


def test_plan_has_every_combination(tmp_path: Path) -> None:
    content = SWEEP | {"algorithms": {"iql": {"expectile": [0.7, 0.9], "hidden": [[4], [8, 8]]}}}
    trials = load_plan(write(content, tmp_path))
    found = []
    for trial in trials:
        assert isinstance(trial.parameters, IQLConfig)
        assert trial.training.steps == 200
        assert trial.training.log_every == 40
        found.append((trial.parameters.expectile, trial.parameters.hidden, trial.training.seed))
    assert found == [(e, h, s) for e in (0.7, 0.9) for h in ((4,), (8, 8)) for s in (0, 1)]
    assert trials[-1].name == "iql_expectile-0.9_hidden-8-8_seed-1"
    assert trials[-1].configuration == "iql, expectile 0.9, hidden [8, 8]"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"algorithms": {"iqq": None}}, "algorithms.iqq: unknown algorithm. Did you mean 'iql'?"),
        ({"algorithms": {}}, "algorithms: Dictionary should have at least 1 item"),
        ({"algorithms": {"iql": {"expectile": 0.7}}}, "algorithms.iql.expectile: Input should be"),
        (
            {"algorithms": {"iql": {"expectil": [0.7]}}},
            "algorithms.iql: expectil: unknown key. Did you mean 'expectile'?",
        ),
        ({"algorithms": {"iql": {"expectile": [2.0]}}}, "expectile: Input should be less than 1"),
        ({"algorithms": {"bc": {"gamma": [0.9, 0.9]}}}, "bc_gamma-0.9_seed-0: a value is given tw"),
        ({"options": {"alpha": 1.0}}, "s.yaml: options, for bc: alpha: unknown key"),
        ({"options": {"seed": 1}}, "seed: give the seeds as a list"),
        ({"sedes": [1]}, "s.yaml: sedes: unknown key. Did you mean 'seeds'?"),
        ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0, got -1"),
        (
            {"seeds": [2**64]},
            "seeds.0: Input should be less than 4294967296, got 18446744073709551",
        ),
    ],
)
def test_a_wrong_sweep_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        planned(SWEEP | change)
    assert sentence in str(error.value)


def test_without_ray_the_error_names_the_extra(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    file = write(SWEEP, tmp_path)
    assert cli.run(["sweep", str(path), str(file), "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'offrl[sweep]'" in capsys.readouterr().err


def start(*arguments: object) -> "subprocess.Popen[str]":
    code = "from offrl_contract.cli import main; main()"
    command = [sys.executable, "-c", code, "sweep", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_sweep_that_was_interrupted_goes_on(path: Path, tmp_path: Path) -> None:
    """Eight trials, two at a time; what had finished stays as it was, the others end the same."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'offrl[sweep]'")
    out = tmp_path / "out"
    arguments = (path, write(SWEEP, tmp_path), "--out", out, "--cores", 2)
    process = start(*arguments)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("2 of 8"):
            process.send_signal(signal.SIGINT)
            break
    process.stdout.read()
    assert process.wait(60.0) == cli.EXIT_INTERRUPTED
    states = [row["state"] for row in table(out).values()]
    assert 2 <= states.count("finished") < 8
    assert states.count("finished") + states.count("interrupted") == 8
    first = {n: (out / n / "checkpoints").stat().st_mtime_ns for n, r in table(out).items()
             if r["state"] == "finished"}  # fmt: skip

    process = start(*arguments)
    said, _ = process.communicate(timeout=240.0)
    assert process.returncode == 0, said
    assert f"8 trials, {len(first)} of them finished before" in said
    rows = table(out)
    assert list(rows) == NAMES
    for name, row in rows.items():
        assert row["state"] == "finished"
        assert row["attempts"] == ("0" if name in first else "1")
        assert row["step"] == "200"
        assert float(row["held_out_action_error"]) > 0.0
    assert {n: (out / n / "checkpoints").stat().st_mtime_ns for n in first} == first

    # a trial is the run that `offrl train` makes
    alone = ["train", "td3_bc", path, "--out", tmp_path / "alone", "--alpha", 1.0, "--seed", 1]
    alone += ["--steps", 200, "--log-every", 40, "--checkpoint-every", 40, "--hidden", 8, 8]
    assert cli.run([*map(str, alone)]) == 0
    runs = [load_run(folder) for folder in (tmp_path / "alone", out / NAMES[3])]
    assert differing(*(run.algorithm.state_dict() for run in runs)) == []
    _look_at(out / "sweep.html", tmp_path)


def _look_at(page: Path, tmp_path: Path) -> None:
    """A browser draws the curves, without an error or a request to anywhere."""
    executable = find_chromium()
    if executable is None:
        return
    with Browser(executable, tmp_path / "profile") as browser:
        browser.size(1366, 768)
        browser.open(page)
        ((_, width, height, marks),) = browser.evaluate(MEASURE)
        assert width > 800
        assert height > 800
        # of each of 2 common metrics: 4 means and 8 seeds
        assert marks > 2 * 12
        assert browser.evaluate("document.querySelectorAll('#trials tbody tr').length") == 8
        assert browser.errors == []
        outside = [url for url in browser.requests if not url.startswith(("file:", "data:"))]
        assert outside == []


def test_trials_that_fail_are_tried_again(tmp_path: Path) -> None:
    """One worker is killed once, one trial always fails, one says that it would always fail."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'offrl[sweep]'")
    trials = planned({"algorithms": {"bc": {"gamma": [0.1, 0.2, 0.3, 0.4]}}})
    said: list[str] = []

    def work(trial: Trial) -> None:  # pickled by value: the workers do not know this file
        gamma = trial.parameters.gamma
        with (tmp_path / str(gamma)).open("a") as file:
            file.write("begun\n")
        if gamma == 0.1 and (tmp_path / "0.1").read_text().count("begun") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if gamma == 0.2:
            raise RuntimeError("no luck")
        if gamma == 0.3:
            raise InputError("diverged")

    with cluster(None, 2) as ray:
        outcomes = run_trials(ray, trials, work, 2, said.append, lambda: False)
    begun = [(tmp_path / str(g)).read_text().count("begun") for g in (0.1, 0.2, 0.3, 0.4)]
    assert begun == [2, 3, 1, 1]
    assert outcomes == {
        "bc_gamma-0.1_seed-0": Outcome("finished", 2),
        "bc_gamma-0.2_seed-0": Outcome("failed", 3, "no luck"),
        "bc_gamma-0.3_seed-0": Outcome("failed", 1, "diverged"),
        "bc_gamma-0.4_seed-0": Outcome("finished", 1),
    }
    assert sum("trying again" in line for line in said) == 3


def test_a_failed_trial_is_reported_and_tried_on_a_cluster(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On a Ray that runs already; rewards of 1e38 times the learning rate diverge."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'offrl[sweep]'")
    out = tmp_path / "out"
    content = {"algorithms": {"td3": {"learning_rate": [1e-3, 1e30]}}, "options": {"steps": 20}}
    address = f"127.0.0.1:{free_port()}"
    head = ("start", "--head", "--block", "--port", address.split(":")[1], "--num-cpus", "1")
    quiet = ("--include-dashboard", "false", "--disable-usage-stats")
    script = "from ray.scripts.scripts import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *head, *quiet, "--object-store-memory", "100000000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(address)
        arguments = ["sweep", path, write(content, tmp_path), "--out", out, "--address", address]
        with pytest.raises(SystemExit) as leaving:
            cli.run([*map(str, arguments)])
    finally:
        process.terminate()
        process.wait(30.0)
    assert leaving.value.code == 1
    sound, diverged = table(out).values()
    assert (sound["state"], sound["attempts"], sound["step"]) == ("finished", "1", "20")
    assert (diverged["state"], diverged["attempts"]) == ("failed", "1")
    assert "diverged at step" in diverged["error"]
    assert "1 finished, 1 failed" in capfd.readouterr().out


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(address: str) -> None:
    host, port = address.split(":")
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(address)


def test_other_settings_are_refused_before_anything_runs(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    train = ["train", "bc", path, "--out", out / "bc_seed-0", "--steps", 4, "--hidden", 8]
    assert cli.run([*map(str, train)]) == 0
    file = write({"algorithms": {"bc": None}, "options": {"steps": 5, "hidden": [8]}}, tmp_path)
    assert cli.run(["sweep", str(path), str(file), "--out", str(out)]) == 2
    assert "bc_seed-0: was made otherwise: training.steps is 5, was 4" in capsys.readouterr().err
    assert checkpoint.steps_of(out / "bc_seed-0") == [4]
    assert cli.run(["sweep", str(path), str(file), "--out", str(tmp_path / ("n" * 300))]) == 2
    assert "name too long" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threads": 3}, "bc_seed-0: threads: 3 asked for, at most 2 can be had"),
        ({"device": "cuda"}, "bc_seed-0: device: cuda asked for, Ray finds no GPU here"),
    ],
)
def test_a_trial_that_there_is_no_room_for_is_refused(
    options: dict[str, Any],
    sentence: str,
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'offrl[sweep]'")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    file = write({"algorithms": {"bc": None}, "options": options}, tmp_path)
    asked = ["sweep", str(path), str(file), "--out", str(tmp_path / "out"), "--cores", "2"]
    assert cli.run(asked) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "sentence"), [("--cores=0", "greater than 0"), ("--retries=-1", "equal to 0")]
)
def test_numbers_out_of_range_leave_with_2(
    wrong: str, sentence: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["sweep", str(path), str(write(SWEEP, tmp_path)), "--out", str(tmp_path / "out"), wrong]
    with pytest.raises(SystemExit) as leaving:
        cli.run(asked)
    assert leaving.value.code == 2
    assert sentence in capsys.readouterr().err


def test_table_and_page_of_trials_without_metrics(tmp_path: Path) -> None:
    trials = planned({"algorithms": {"bc": None}, "seeds": [0, 1, 2]})
    outcomes = {trial.name: Outcome("failed", 3, "<no> luck") for trial in trials[:2]}
    outcomes[trials[2].name] = Outcome("interrupted", 1)
    (tmp_path / trials[2].name).mkdir()
    (tmp_path / trials[2].name / "metrics.csv").write_text("step,loss\n10,0.5\n20,0.25\n3")
    results = read_results(trials, outcomes, tmp_path)
    assert metric_names(results) == ["loss"]
    assert results[2].curves == {"loss": ([10, 20], [0.5, 0.25])}
    assert [result.step for result in results] == [0, 0, 20]
    text = sweep_page("s", results, [("dataset", "d.h5")])
    assert "&lt;no&gt; luck" in text
    assert "0 of 3" in text
    empty: list[Result] = results[:2]
    assert "Learning curves" not in sweep_page("s", empty, [])
