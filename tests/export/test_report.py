"""The page of a policy file: what it says of the gate, and how a browser shows it."""

import json
from pathlib import Path
from typing import Any

import pytest
from browser import MEASURE, OVERFLOWING, Browser, find_chromium
from gate_summary import summary
from offrl_contract import cli
from offrl_export.study import GATE
from offrl_policy.policy_file import Policy

from .test_policy import trained

NOMINAL = {
    "ticks": [100] * 4,
    "alarm": {GATE: [None, None, None, 90], "knn alone": [None, 3, 4, 5]},
    "level": {GATE: [0.1, 0.2, 0.3, 1.2], "knn alone": [0.5, 1.5, 1.4, 1.1]},
    "bump": [None] * 4,
    "success": [True, True, True, True],
    "gated": {
        "bump": [None] * 4,
        "stopped": [None, None, None, 90],
        "halted": [None] * 4,
        "braked": [0] * 4,
        "success": [True] * 3 + [False],
    },
}
BLIND = {
    "ticks": [100] * 4,
    "alarm": {GATE: [10, 48, 20, None], "knn alone": [None] * 4},
    "level": {GATE: [2.0, 1.1, 3.0, 0.1], "knn alone": [0.1] * 4},
    "bump": [50, 50, 50, None],
    "success": [False, False, False, True],
    "gated": {
        "bump": [None, 50, None, None],
        "stopped": [10, 48, 20, None],
        "halted": [5, None, None, 7],
        "braked": [0, 3, 0, 0],
        "success": [False] * 3 + [True],
    },
}
UNITS = {"nominal": NOMINAL, "blind <1>": BLIND}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    assert cli.run([*trained(folder, "nav_msgs/msg/Odometry"), "--alpha", "0.5"]) == 0
    return folder / "p.onnx"


def study(of: Path, path: Path, **changes: Any) -> Path:
    content = {"policy": Policy(of).checksum, "units": UNITS, "summary": summary(UNITS)}
    path.write_text(json.dumps(content | changes))
    return path


def test_summary_by_hand() -> None:
    found = summary(UNITS)
    blind = found["blind <1>"]
    assert (blind["bumps"], blind["bumps behind the gate"]) == (3, 1)
    assert blind["avoided"]["count"] == 2
    assert (blind["stopped by a score"], blind["stopped by a check"]) == (3, 2)
    assert (blind["braked"], found["nominal"]["braked"]) == (1, 0)
    in_time = blind["bumps announced in time"]
    assert in_time[GATE]["count"] == 2  # the alarm two ticks before the bump comes too late
    assert in_time["knn alone"]["count"] == 0
    assert blind["alarms"][GATE]["median delay"] == 2.0
    nominal = found["nominal"]
    assert nominal["hours"] == pytest.approx(40.0 / 3600.0, abs=1e-3)
    assert nominal["alarms"][GATE]["share"] == 0.25
    assert nominal["alarms"][GATE]["interval"] == [0.006, 0.806]
    assert nominal["avoided"]["share"] is None
    # levels with a bump 2.0, 1.1, 3.0; without 0.1, 0.2, 0.3, 1.2, 0.1: one of 15 pairs is wrong
    assert found["all drives of the policy"]["AUROC of bumps"][GATE] == round(14 / 15, 3)


def test_page(policy: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    found = study(policy, tmp_path / "gate.json")
    assert cli.run(["report", str(policy), "--out", str(out), "--study", str(found)]) == 0
    page, gate = out.read_text(), Policy(policy).gate
    assert gate.assumption in page
    assert f"{gate.scores[0].threshold:.4g}" in page
    assert Policy(policy).checksum in page
    assert "in 24.8 s" in page  # four held-out episodes of 31 observations at 5 Hz
    assert "blind &lt;1&gt;" in page
    assert "Fewer than 90% of the bumps were avoided with: blind &lt;1&gt;." in page
    assert "67% (9% to 99%)" in page  # two of three bumps


def test_bad_input_leaves_no_page(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = study(policy, tmp_path / "other.json", policy="0" * 64)
    lacking = study(policy, tmp_path / "lacking.json", summary={"nominal": {"drives": 1}})
    listed = tmp_path / "list.json"
    listed.write_text("[]")
    data = policy.with_name("data.h5")
    misspelt = tmp_path / "policy.onx"
    misspelt.touch()
    out = tmp_path / "page.html"
    for file, given, sentence in (
        (policy, tmp_path / "none.json", "none.json: cannot be read: No such file"),
        (policy, other, "is of the policy 000000000000"),
        (policy, lacking, "not what benchmarks/gate.py writes: Field required"),
        (policy, listed, "not what benchmarks/gate.py writes"),
        (data, other, "only a policy file has one"),
        (misspelt, other, "nothing here shows '.onx'. Did you mean 'onnx'?"),
        (tmp_path / "none", other, "none: no such file"),
    ):
        arguments = [file, "--out", out, "--study", given]
        assert cli.run(["report", *map(str, arguments)]) == 2
        assert sentence in capsys.readouterr().err
        assert not out.exists()


def test_browser_shows_every_figure(policy: Path, tmp_path: Path) -> None:
    executable = find_chromium()
    if executable is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    out = tmp_path / "page.html"
    arguments = [policy, "--out", out, "--study", study(policy, tmp_path / "gate.json")]
    assert cli.run(["report", *map(str, arguments)]) == 0
    with Browser(executable, tmp_path / "profile") as browser:
        browser.size(1366, 768)
        browser.open(out)
        drawn = browser.evaluate(MEASURE)
        assert len(drawn) == 2
        assert all(width > 200 and height > 50 and marks for _, width, height, marks in drawn)
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert browser.evaluate(OVERFLOWING) == []
        assert browser.errors == []
