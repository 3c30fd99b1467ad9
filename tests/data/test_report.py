"""The report's page: what it says, that it stands alone, and how a browser shows it."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import MEASURE, OVERFLOWING, Browser, find_chromium
from offrl_contract import Robot, robot_from_yaml
from offrl_contract.cli import run
from offrl_data.dataset import Dataset, Episode, load_dataset
from offrl_data.dataset_writer import DatasetWriter
from offrl_data.report_page import MOST_EPISODES, page, write_page
from offrl_data.report_summary import coverage, duration, remarks
from plotly.offline import get_plotlyjs

ROBOT = """
robot: test
rate: 10.0
observation:
  - {name: scan, topic: /scan, type: sensor_msgs/msg/LaserScan, field: ranges, bins: 36, clip: [0.1, 5]}
  - {name: twist, topic: /odom, type: nav_msgs/msg/Odometry, field: [twist.twist.linear.x, twist.twist.angular.z]}
  - {name: last_action, source: action}
action:
  - {name: cmd, topic: /cmd, type: geometry_msgs/msg/Twist, field: [linear.x, angular.z], limits: [[-1, 1], [-2, 2]], safe: [0, 0]}
reward: "next_twist_0"
terminal: "twist_0 > 9"
"""  # noqa: E501
TOPIC = {
    "topic": "/odom",
    "type_name": "nav_msgs/msg/Odometry",
    "messages": 500,
    "rate": 50.0,
    "longest_gap": 2.5,
    "malformed": 3,
    "header_offset": -5702400.0,
}
BAG = {
    "bag": "drive<b>",
    "xxh128": "00ff",
    "seconds": 60.0,
    "ticks": 600,
    "transitions": 450,
    "episodes": 9,
    "terminals": 5,
    "dropped": {"scan: stale": 100, "command: stale": 50},
    "clipped_commands": 7,
    "topics": [TOPIC, TOPIC | {"topic": "/scan", "header_offset": None, "malformed": 0}],
    "notes": ["metadata.yaml is missing"],
}
SKIPPED = BAG | {
    "bag": "other",
    "ticks": 0,
    "transitions": 0,
    "dropped": {},
    "clipped_commands": 0,
    "topics": [],
    "notes": ["skipped: no topic /odom"],
}


@pytest.fixture
def robot() -> Robot:
    return robot_from_yaml(ROBOT, "test.yaml")


def write(
    robot: Robot,
    path: Path,
    episodes: int = 9,
    rows: int = 50,
    odometry: bool = True,
    report: list[dict[str, Any]] | None = None,
) -> Path:
    generator = np.random.default_rng(0)
    with DatasetWriter(path, robot) as writer:
        for episode in range(episodes):
            values = generator.normal(size=(rows + 1, robot.observation_size))
            walk = values[:-1, :2].cumsum(axis=0).astype(np.float32) if odometry else None
            writer.append(
                Episode(
                    observations=values.astype(np.float32),
                    actions=generator.uniform(-1, 1, (rows, 2)).astype(np.float32),
                    rewards=values[1:, 36].astype(np.float32),
                    terminal=episode % 2 == 0,
                    source="drive<b>",
                    stamp=1_700_000_000_000_000_000 + episode * 10**10,
                    path=walk,
                )
            )
        writer.finish({} if report is None else {"report": report})
    return path


def without_scripts(text: str) -> str:
    return re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_page_shows_the_whole_dataset_and_loads_nothing(robot: Robot, tmp_path: Path) -> None:
    data = write(robot, tmp_path / "data.h5", report=[BAG, SKIPPED])
    assert run(["report", str(data)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.h5", "data.html"]
    text = without_scripts((tmp_path / "data.html").read_text("utf-8"))
    links = re.findall(r"""(?:src|href|srcset|action|data)\s*=\s*["']?([^"'\s>]*)""", text)
    assert [link for link in links if not link.startswith(("#", "data:,"))] == []
    assert "url(" not in text
    assert "@import" not in text
    for shown in ("450", "1 of 2", "25.0 %", "5 ended by a terminal, 4 by a timeout"):
        assert f">{shown}" in text
    assert "mostly: scan: stale (100), command: stale (50)" in text
    assert "drive&lt;b&gt;" in text
    assert "drive<b>" not in text
    assert "2023-11-14 22:13:20" in text
    for heading in ("Returns", "Commands", "Path", "Observations", "Bags", "Episodes", "Origin"):
        assert f"<h2>{heading}</h2>" in text


def test_returns_are_shown_without_powers_of_ten(robot: Robot, tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "data.h5", robot) as writer:
        for reward in (10.0, 600.0):
            rows, size = np.zeros((11, robot.observation_size), np.float32), robot.action_size
            rewards = np.full(10, reward, np.float32)
            actions = np.zeros((10, size), np.float32)
            writer.append(Episode(rows, actions, rewards, terminal=False, source=""))
        writer.finish({})
    text = without_scripts(page(load_dataset(tmp_path / "data.h5"), "data.h5"))
    assert ">3050 ± 2950<" in text
    assert "100 to 6000" in text


def test_dataset_from_elsewhere_has_neither_bags_nor_path(robot: Robot, tmp_path: Path) -> None:
    data = load_dataset(write(robot, tmp_path / "data.h5", odometry=False))
    text = without_scripts(page(data, "data.h5"))
    assert "<h2>Bags</h2>" not in text
    assert "<h2>Path</h2>" not in text
    assert "Nothing odd was found" in text


def test_what_is_odd_is_said_once_with_its_bags(robot: Robot, tmp_path: Path) -> None:
    salvaged = BAG | {"bag": "b", "losses": ["12 messages lost"], "not_finite": {"scan": 4, "x": 0}}
    data = load_dataset(write(robot, tmp_path / "d.h5", report=[BAG, salvaged, SKIPPED]))
    found = {remark.text: remark.bags for remark in remarks(data)}
    both = ("drive<b>", "b")
    assert found == {
        "/odom: the header clock is 66.0 d behind the receive clock": both,
        "/odom: 3 malformed messages": both,
        "7 commands outside the limits, clipped to them": both,
        "metadata.yaml is missing": both,
        "12 messages lost": ("b",),
        "not finite: scan 4": ("b",),
        "skipped: no topic /odom": ("other",),
    }


def test_rows_that_teach_nothing_are_remarked(robot: Robot, tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d.h5", robot) as writer:
        observations = np.ones((11, 40), np.float32)
        actions = np.array([[1.0, 0.1]] * 5 + [[0.0, 0.15]] * 5, np.float32)
        rewards = np.zeros(10, np.float32)
        writer.append(Episode(observations, actions, rewards, terminal=False, source="a"))
        writer.finish({})
    data = load_dataset(tmp_path / "d.h5")
    first, second = coverage(data)
    assert (first.visited, first.at_limit) == (0.1, 0.5)
    assert (second.visited, second.at_limit) == (0.05, 0.0)
    assert [remark.text for remark in remarks(data)] == [
        "observed but never changing: scan_0, scan_1, scan_2, scan_3, scan_4, scan_5 and 34 more",
        "cmd.linear.x is at a limit in 50 % of the rows",
        "the terminal condition never came true: every episode ends with the log",
    ]
    assert "figure-4" in page(data, "d.h5")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0012, "1.2 ms"), (42.0, "42.0 s"), (90.0, "1.5 min"), (7200.0, "2.0 h"), (1e9, "11574 d")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_page_stays_light(robot: Robot, tmp_path: Path) -> None:
    path = write(robot, tmp_path / "d.h5", episodes=MOST_EPISODES + 1, rows=20, report=[BAG] * 200)
    text = page(load_dataset(path), "d.h5")
    assert len(text) - len(get_plotlyjs()) < 4_000_000
    assert f"The first {MOST_EPISODES} of {MOST_EPISODES + 1}." in text
    assert "The 24 that lost most are drawn." in text
    assert "mean of each of 600 equal stretches" in text


def test_bad_input_leaves_no_page(
    robot: Robot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(robot, tmp_path / "data.h5")
    (tmp_path / "not.h5").write_bytes(b"not HDF5")
    before = sorted(tmp_path.iterdir())
    for arguments, sentence in (
        ([tmp_path / "none.h5"], "no such file"),
        ([tmp_path / "not.h5"], "not an offrl dataset"),
        ([data, "--out", tmp_path / "page.pdf"], "must end in .html"),
        ([data, "--out", data / "page.html"], "cannot be written"),
    ):
        assert run(["report", *map(str, arguments)]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert "Traceback" not in said
        assert sorted(tmp_path.iterdir()) == before


def test_page_never_replaces_its_dataset(
    robot: Robot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(robot, tmp_path / "data.html")
    content = data.read_bytes()
    assert run(["report", str(data)]) == 2
    assert "would replace the file" in capsys.readouterr().err
    assert data.read_bytes() == content


def test_failed_write_leaves_the_old_page(
    robot: Robot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = write(robot, tmp_path / "data.h5"), tmp_path / "data.html"
    out.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run(["report", str(data)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert out.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.h5", "data.html"]


def test_without_plotly_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("offrl_data.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert run(["report", "data.h5"]) == 2
    said = capsys.readouterr().err
    assert "'plotly', which is not installed" in said
    assert "pip install 'offrl[" in said


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with Browser(executable, tmp_path_factory.mktemp("profile")) as browser:
        browser.size(1366, 768)
        yield browser


def wide_robot() -> Robot:
    """Ten commands, one observation: many maps to choose from, no wide term."""
    fields = ", ".join(f"data{i}" for i in range(10))
    text = f"""
robot: arm
rate: 100.0
observation: [{{name: x, topic: /x, type: std_msgs/msg/Float64, field: data, history: 3}}]
action: [{{name: cmd, topic: /c, type: a/msg/B, field: [{fields}], limits: {[[-1, 1]] * 10}, safe: {[0] * 10}}}]
reward: "x_0"
"""  # noqa: E501
    return robot_from_yaml(text, "arm.yaml")


def short_dataset(path: Path) -> Dataset:
    """One episode of one row, of a robot with many commands."""
    with DatasetWriter(path, wide_robot()) as writer:
        values = np.zeros((2, 3), np.float32), np.zeros((1, 10), np.float32)
        writer.append(Episode(*values, np.ones(1, np.float32), terminal=False, source=""))
        writer.finish({})
    return load_dataset(path)


@pytest.mark.parametrize("kind", ["bags", "elsewhere", "long", "short"])
def test_browser_shows_every_figure(
    kind: str, browser: Browser, robot: Robot, tmp_path: Path
) -> None:
    path, out = tmp_path / "d.h5", tmp_path / "d.html"
    if kind == "short":
        data = short_dataset(path)
    elif kind == "bags":
        data = load_dataset(write(robot, path, report=[BAG, BAG | {"bag": "b" * 80}, SKIPPED]))
    else:
        data = load_dataset(write(robot, path, 300 if kind == "long" else 4, odometry=False))
    write_page(data, "d.h5", out)
    browser.errors.clear()
    browser.requests.clear()
    browser.open(out)
    drawn = browser.evaluate(MEASURE)
    assert len(drawn) == {"bags": 10, "elsewhere": 7, "long": 7, "short": 5}[kind]
    for name, width, height, marks in drawn:
        assert width > 200, name
        assert height > 50, name
        assert marks > 0, name
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.evaluate(OVERFLOWING) == []
    assert browser.errors == []
    outside = [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))]
    assert outside == []


def test_page_sorts_by_a_click_and_follows_the_colour_scheme(
    browser: Browser, robot: Robot, tmp_path: Path
) -> None:
    data = load_dataset(write(robot, tmp_path / "d.h5", episodes=12))
    write_page(data, "d.h5", tmp_path / "d.html")
    browser.errors.clear()
    browser.open(tmp_path / "d.html")
    order = np.argsort(data.returns())
    for expected in (order, order[::-1]):
        found = browser.evaluate(SORT)
        assert [int(text) for text in found] == expected.tolist()
    light = browser.evaluate(TICK_COLOUR)
    browser.colours("dark")
    dark = browser.evaluate(TICK_COLOUR)
    browser.colours("light")
    assert sum(dark) > sum(light) + 100
    assert browser.errors == []


SORT = """
(() => {
  const table = document.querySelector("#episodes table");
  Array.from(table.querySelectorAll("th")).find(head => head.textContent === "return").click();
  return Array.from(table.tBodies[0].rows, row => row.cells[0].textContent);
})()
"""
TICK_COLOUR = """
new Promise(requestAnimationFrame).then(() => new Promise(requestAnimationFrame)).then(() =>
  getComputedStyle(document.querySelector(".xtick text")).fill.match(/[0-9]+/g).map(Number))
"""
