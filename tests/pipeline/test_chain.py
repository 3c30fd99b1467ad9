"""The chain's other promises on the real recordings: parity, digests, refusal."""

from pathlib import Path

import numpy as np
import pytest
import torch
from offrl_contract.cli import run as offrl_run
from offrl_data.dataset import load_dataset
from offrl_policy.policy_file import Policy
from offrl_training.run import load_run

from .conftest import Chain

pytestmark = pytest.mark.bags


def test_onnx_equals_torch_over_the_dataset(neato: Chain) -> None:
    data, policy, run = load_dataset(neato.data), Policy(neato.policy), load_run(neato.run)
    with torch.no_grad():
        expected = run.algorithm.act(torch.from_numpy(data.observations)).numpy()
    found = np.array([policy.run(row)[0] for row in data.observations])
    low, high = np.array(data.robot.limits).T
    largest = float((np.abs(found - expected) / (high - low)).max())
    print(f"parity: {len(found)} observations, largest relative difference {largest:.3g}")  # noqa: T201
    assert largest < 1e-5


def test_uncertainty_of_the_file_is_that_of_the_critics(neato: Chain) -> None:
    data, policy, run = load_dataset(neato.data), Policy(neato.policy), load_run(neato.run)
    rows = data.observations[::20]
    with torch.no_grad():
        states = torch.from_numpy(rows)
        expected = run.gate_critics(states, run.algorithm.act(states)).std(0).numpy()
    found = np.array([policy.run(row)[1][0] for row in rows])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_a_blinded_lidar_is_less_familiar_than_the_training_data(neato: Chain) -> None:
    policy = Policy(neato.policy)
    trained = load_dataset(neato.data).observations[::5]
    blinded = trained.copy()
    blinded[:, :36] = 0.1
    normal, odd = ([policy.run(row)[1][1] for row in rows] for rows in (trained, blinded))
    assert np.median(odd) > np.quantile(normal, 0.95)


def test_dataset_of_another_robot_is_refused(
    neato: Chain, bags: Path, msgs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = tmp_path / "other.h5", tmp_path / "policy.onnx"
    tail = ["--robot", "ackermann", "--msgs", str(msgs), "--out", str(other)]
    assert offrl_run(["convert", str(bags / "ackermann_gps"), *tail]) == 0
    assert offrl_run(["export", str(neato.run), "--data", str(other), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "made with another robot file" in said
    assert "robot: neato" in said
    assert not out.exists()
    assert (
        offrl_run(["train", "bc", str(other), "--robot", "neato", "--out", str(tmp_path / "r")])
        == 2
    )
    assert "robot: ackermann" in capsys.readouterr().err


def test_too_strict_an_alpha_leaves_no_file(
    neato: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "policy.onnx"
    arguments = ["export", str(neato.run), "--data", str(neato.data), "--out", str(out)]
    assert offrl_run([*arguments, "--alpha", "0.01"]) == 2
    assert "needs 99 held-out episodes" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
