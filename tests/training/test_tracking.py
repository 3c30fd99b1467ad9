"""Trackers get what metrics.csv gets, and a resumed run goes on in the run it had there."""

import csv
import json
import os
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from offrl_contract import cli
from offrl_training.trainer import Trainer

SHORT = ["--hidden", "8", "8", "--batch", "16", "--steps", "40", "--log-every", "10"]


def train(*arguments: object) -> int:
    return cli.run(["train", *map(str, arguments), *SHORT])


def stop_and_resume(tracker: str, path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train 21 of 40 steps, then the rest in a second go."""
    advance = Trainer.advance

    def interrupt(trainer: Trainer) -> None:
        if trainer.step == 20:
            os.kill(os.getpid(), signal.SIGINT)
        advance(trainer)

    base = ["bc", path, "--out", out, "--tracker", tracker]
    monkeypatch.setattr(Trainer, "advance", interrupt)
    assert train(*base) == cli.EXIT_INTERRUPTED
    monkeypatch.setattr(Trainer, "advance", advance)
    assert train(*base, "--resume") == 0


def logged(out: Path, name: str) -> list[tuple[int, float]]:
    with (out / "metrics.csv").open() as file:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(file)]


def test_mlflow(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'offrl[mlflow]'")
    from mlflow.tracking import MlflowClient

    store = f"file:{tmp_path / 'store'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    out = tmp_path / "run"
    stop_and_resume("mlflow", path, out, monkeypatch)
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("offrl")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == (out / "mlflow.id").read_text()
    assert found.info.run_name == "run"
    assert found.info.status == "FINISHED"
    assert found.data.params["parameters.hidden"] == "[8, 8]"
    assert found.data.params["training.steps"] == "40"
    history = client.get_metric_history(found.info.run_id, "policy_loss")
    assert [point.step for point in history] == [10, 20, 30, 40]
    values = [(point.step, point.value) for point in history]
    assert values == [(step, pytest.approx(value)) for step, value in logged(out, "policy_loss")]


def test_mlflow_reports_a_store_that_cannot_be_used(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'offrl[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://x")
    assert train("bc", path, "--out", tmp_path / "run", "--tracker", "mlflow") == 2
    assert "--tracker mlflow: " in capsys.readouterr().err


def test_wandb(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'offrl[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = tmp_path / "run"
    stop_and_resume("wandb", path, out, monkeypatch)
    name = (out / "wandb.id").read_text()
    files = sorted(out.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb"))
    assert files
    expected = [(step, pytest.approx(value)) for step, value in logged(out, "policy_loss")]
    deadline = time.monotonic() + 30.0  # offline, a process of W&B writes after the run has ended
    while wandb_history(files, "policy_loss") != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    assert wandb_history(files, "policy_loss") == expected


def wandb_history(files: list[Path], name: str) -> list[tuple[int, float]]:
    """The course of one metric in what W&B keeps to send later."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for data in (record for file in files for record in leveldb_records(file.read_bytes())):
        history = Record.FromString(data).history.item
        items = {item.key or ".".join(item.nested_key): item.value_json for item in history}
        if name in items:
            found.append((json.loads(items["_step"]), json.loads(items[name])))
    return found


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format: 32 KiB blocks of fragments, after 7 bytes of W&B.

    Each fragment: checksum (4), length (2), kind (1: whole, 2: first, 3: middle, 4: last).
    """
    at, block, record = 7, 1 << 15, b""
    while at + 7 <= len(content):
        length, kind = struct.unpack_from("<HB", content, at + 4)
        if at + 7 + length > len(content):  # not all of it is written yet
            return
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""
        if block - at % block < 7:
            at += block - at % block


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_without_its_library_the_error_names_the_extra(
    tracker: str,
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, tracker, None)
    assert train("bc", path, "--out", tmp_path / "run", "--tracker", tracker) == 2
    said = capsys.readouterr().err
    assert f"--tracker {tracker}: needs the Python package '{tracker}'" in said
    assert f"pip install 'offrl[{tracker}]'" in said
    assert not (tmp_path / "run").exists()
