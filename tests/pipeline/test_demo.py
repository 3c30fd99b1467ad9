"""`make demo`, made small: every step runs, the figures and the picture are there."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from offrl_policy.policy_file import Policy

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.ros, pytest.mark.timeout(600)]


def test_figures_are_those_of_the_drives(small_demo: Path) -> None:
    figures = json.loads((small_demo / "results.json").read_text())
    for driver in ("behaviour", "bc", "policy"):
        returns = figures[driver]["returns"]
        assert len(returns) == 2
        assert all(-20.0 < value < 20.0 for value in returns)
        assert 0 <= figures[driver]["successes"] + figures[driver]["collisions"] <= 2
    assert figures["nominal_episodes"] == 2
    assert figures["disturbed_episodes"] == {"shove": 1, "dirty_lidar": 1}


def test_the_picture_is_a_picture(small_demo: Path) -> None:
    content = (small_demo / "drive.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width > 3 * height > 300


def test_the_policy_file_is_sound_and_the_node_left_in_order(small_demo: Path) -> None:
    Policy(small_demo / "policy.onnx").self_check()
    (log,) = (small_demo / "logs").glob("*_offrl_serve.log")
    text = log.read_text()
    assert "NOMINAL" in text
    assert "Traceback" not in text


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    command = [sys.executable, str(ROOT / "sim" / "demo.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "holds something else than a demo" in done.stderr
    assert (tmp_path / "thesis.tex").exists()
