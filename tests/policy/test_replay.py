"""A recorded drive decided again: equal where nothing was touched, and every touch is seen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from offrl_contract.cli import run
from offrl_policy.controller import Controller, Settings
from offrl_policy.gate import GateSettings, State
from offrl_policy.policy_file import Policy
from offrl_policy.record import Record
from offrl_policy.replay import Outcome, replay
from recurrent import write_gru_policy
from rosbags.rosbag2 import StoragePlugin, Writer
from support import STORE, encode, header, odometry, write_policy

from .rig import ODOMETRY, SCAN, SECOND, TICK, Rig

STRING = "std_msgs/msg/String"
TYPES = {"/scan": SCAN, "/odom": ODOMETRY, "/policy/decision": STRING}
Written = tuple[str, int, bytes]
"""Topic, time, bytes."""


class Recorder(Rig):
    """A rig whose messages and decisions go into a bag."""

    def __init__(self, policy: Path, **settings: Any) -> None:
        super().__init__(Controller(Policy(policy), Settings(**settings)))
        self.written: list[Written] = []
        self.count = 0
        self._push = self.controller.push
        self.controller.push = self._heard  # type: ignore[method-assign]

    def _heard(self, topic: str, stamp: int, content: Any, published: int | None = None) -> None:
        if isinstance(content, bytes):  # the recorder hears it at a time of its own
            self.written.append((topic, stamp + 7_000_000, content))
        self._push(topic, stamp, content, published)

    def tick(self, *arguments: Any, **options: Any) -> Any:
        decision = super().tick(*arguments, **options)
        topics = None if self.count % 20 else {t: t for t in (*TYPES, "/tf", "/tf_static", "/goal")}
        record = self.controller.record(decision, "s", self.count, topics)
        self.count += 1
        content = encode(STORE.types[STRING](record.model_dump_json()), STRING)
        self.written.append(("/policy/decision", self.now + 1_000_000, content))
        return decision


def write(path: Path, written: list[Written], types: dict[str, str] = TYPES) -> Path:
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        made = {
            topic: writer.add_connection(topic, kind, typestore=STORE)
            for topic, kind in types.items()
        }
        for topic, stamp, content in written:
            writer.write(made[topic], stamp, content)
    return path


def drive(rig: Recorder) -> Recorder:
    """Every state, every way between them."""
    generator = np.random.default_rng(0)
    for x in generator.uniform(0.0, 0.5, 60):
        rig.tick(x=float(x), z=float(x) / 2)
    rig.ticks(5, x=1.8)
    rig.ticks(10, x=4.0)
    rig.controller.back_up(rig.now, [0.1, 0.2])
    rig.ticks(5, x=4.0)
    rig.ticks(30)
    rig.controller.reset()
    rig.ticks(20)
    rig.ticks(12, feed=False)
    rig.tick(x=float("nan"))
    rig.ticks(10)
    rig.controller.late = 3
    rig.tick()
    rig.controller.late = 0
    rig.controller.reset()
    rig.ticks(30)
    rig.controller.fault = "/odom: another definition"
    rig.ticks(2)
    rig.controller.fault = ""
    rig.controller.stop("just activated")
    rig.ticks(10)
    return rig


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("policy") / "p.onnx")


@pytest.fixture(scope="module")
def driven(policy: Path) -> Recorder:
    gate = GateSettings(dwell=0.2)
    return drive(Recorder(policy, fallback="topic", blend_time=0.4, caution_scale=0.5, gate=gate))


def decided(rig: Recorder) -> list[Record]:
    texts = (
        STORE.deserialize_cdr(c, STRING).data for t, _, c in rig.written if t in "/policy/decision"
    )
    return [Record.model_validate_json(text) for text in texts]


def same(outcome: Outcome) -> bool:
    return not outcome.differences and outcome.largest == 0.0


def test_every_decision_is_made_again_to_the_bit(
    driven: Recorder, policy: Path, tmp_path: Path
) -> None:
    assert {record.state for record in decided(driven)} == {state.value for state in State}
    outcome = replay(write(tmp_path / "bag", driven.written), policy)
    assert same(outcome)
    assert (outcome.checked, outcome.skipped, outcome.lost) == (driven.count - 1, 1, 0)


def test_a_recurrent_policy_too(tmp_path: Path) -> None:
    path = write_gru_policy(tmp_path / "gru.onnx")
    rig = drive(Recorder(path, gate=GateSettings(latch=False, dwell=0.2)))
    outcome = replay(write(tmp_path / "bag", rig.written), path)
    assert same(outcome)
    assert outcome.checked == rig.count - 1


def test_a_bag_that_begins_in_the_middle_and_one_with_a_gap(
    driven: Recorder, policy: Path, tmp_path: Path
) -> None:
    middle = [each for each in driven.written if each[1] > 10 * SECOND + 70 * TICK]
    outcome = replay(write(tmp_path / "middle", middle), policy)
    assert same(outcome)
    assert 100 < outcome.checked < driven.count - 70
    assert outcome.skipped <= 21
    gap = [
        w for w in driven.written if not 10 * SECOND + 30 * TICK < w[1] < 10 * SECOND + 35 * TICK
    ]
    outcome = replay(write(tmp_path / "gap", gap), policy)
    assert same(outcome)
    assert outcome.checked > driven.count - 30


def test_a_clock_that_jumps_back(policy: Path, tmp_path: Path) -> None:
    rig = Recorder(policy)
    rig.ticks(30)
    rig.now -= 5 * SECOND
    rig.ticks(30)
    outcome = replay(write(tmp_path / "bag", rig.written), policy)
    assert same(outcome)
    assert outcome.checked == 59


POSE, TF = "geometry_msgs/msg/PoseStamped", "tf2_msgs/msg/TFMessage"
GOAL = """
robot: test
rate: 20.0
observation:
  - {name: goal, topic: /goal, type: geometry_msgs/msg/PoseStamped, field: pose, frame: base, max_age: 60.0}
action:
  - {name: cmd, topic: /cmd_vel, type: geometry_msgs/msg/Twist, field: [linear.x, angular.z], limits: [[-1, 1], [-2, 2]], safe: [0.0, 0.0]}
reward: "goal_0"
"""  # noqa: E501


def transform(parent: str, child: str, x: float) -> bytes:
    kinds = STORE.types
    place = kinds["geometry_msgs/msg/Transform"](
        kinds["geometry_msgs/msg/Vector3"](x, 0.0, 0.0),
        kinds["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
    )
    made = kinds["geometry_msgs/msg/TransformStamped"](header(parent), child, place)
    return encode(kinds[TF]([made]), TF)


def goal() -> bytes:
    kinds = STORE.types
    pose = kinds["geometry_msgs/msg/Pose"](
        kinds["geometry_msgs/msg/Point"](3.0, 1.0, 0.0),
        kinds["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
    )
    return encode(kinds[POSE](header("map"), pose), POSE)


def test_transforms_and_a_goal_that_was_sent_once(tmp_path: Path) -> None:
    path = write_policy(tmp_path / "p.onnx", text=GOAL)
    rig = Recorder(path)
    rig.controller.push("/tf_static", rig.now, transform("map", "odom", 0.5))
    rig.tick(feed=False)
    rig.controller.push("/goal", rig.now, goal())
    for step in range(100):
        if step < 80:
            rig.controller.push("/tf", rig.now + TICK // 2, transform("odom", "base", step / 100))
        rig.tick(feed=False)
    states = {record.state for record in decided(rig)}
    assert states == {"STOP", "NOMINAL"}
    types = TYPES | {"/tf": TF, "/tf_static": TF, "/goal": POSE}
    outcome = replay(write(tmp_path / "bag", rig.written, types), path)
    assert same(outcome)
    assert outcome.checked == rig.count - 1
    late = [each for each in rig.written if each[1] > 10 * SECOND + 30 * TICK]
    with_static = [rig.written[0], *late]  # a recorder gets what is latched
    outcome = replay(write(tmp_path / "late", with_static, types), path)
    assert same(outcome)
    assert (
        outcome.checked == 0
    )  # all from a goal that is older than the bag: skipped, not different


Touch = Callable[[Written], Written | None]


def at(topic: str, count: int, change: Callable[[bytes], bytes | None]) -> Touch:
    """Change the so manieth message of a topic."""
    seen = iter(range(10**6))

    def touch(written: Written) -> Written | None:
        if written[0] != topic or next(seen) != count:
            return written
        content = change(written[2])
        return None if content is None else (topic, written[1], content)

    return touch


def rewritten(**fields: Any) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        record = Record.model_validate_json(STORE.deserialize_cdr(content, STRING).data)
        text = record.model_copy(update=fields).model_dump_json()
        return encode(STORE.types[STRING](text), STRING)

    return change


@pytest.mark.parametrize(
    ("touch", "said"),
    [
        (
            at("/odom", 50, lambda _: encode(odometry(0.3, 0.1), ODOMETRY)),
            "1 messages of this tick",
        ),
        (at("/odom", 50, lambda _: None), "are not in the bag"),
        (at("/policy/decision", 50, rewritten(command=(0.4, 0.25))), "recorded [0.4, 0.25]"),
        (at("/policy/decision", 50, rewritten(state="CAUTION")), "recorded CAUTION"),
        (at("/policy/decision", 50, rewritten(levels={})), "recorded {}"),
        (at("/policy/decision", 140, rewritten(reason="scan: 0.90 s old")), "recorded 'scan: 0.90"),
        (at("/policy/decision", 50, rewritten(messages={})), "differ"),
    ],
)
def test_a_touched_bag_differs(
    touch: Touch,
    said: str,
    driven: Recorder,
    policy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    touched = [each for each in map(touch, driven.written) if each is not None]
    bag = write(tmp_path / "bag", touched)
    code = run(["replay", str(bag), "--policy", str(policy)])
    printed = capsys.readouterr().out
    assert said in printed
    assert code == 1, printed


def test_an_untouched_bag_is_0_and_says_so(
    driven: Recorder, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write(tmp_path / "bag", driven.written)
    assert run(["replay", str(bag), "--policy", str(policy)]) == 0
    assert "0 differ; commands by at most 0 of the action range" in capsys.readouterr().out


def test_what_cannot_be_replayed_is_refused_with_a_sentence(
    driven: Recorder, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write(tmp_path / "bag", driven.written)
    other = write_policy(tmp_path / "other.onnx", (0.1, 0.1))
    silent = write(tmp_path / "silent", [w for w in driven.written if w[0] != "/policy/decision"])
    short = write(tmp_path / "short", driven.written[:3])
    garbage = write(
        tmp_path / "garbage", [("/policy/decision", 1, encode(STORE.types[STRING]("{}"), STRING))]
    )
    for arguments, sentence in (
        ([bag, "--policy", other], "the policy file that drove is"),
        ([silent, "--policy", policy], "no decision could be made again"),
        ([short, "--policy", policy], "no decision could be made again"),
        ([garbage, "--policy", policy], "message 0 is no decision"),
        ([bag, "--policy", policy, "--topic", "/x"], "--topic is one of /policy/decision"),
        ([tmp_path / "none", "--policy", policy], "no such bag"),
        ([tmp_path, "--policy", policy], "cannot be read"),
    ):
        assert run(["replay", *map(str, arguments)]) == 2
        assert sentence in capsys.readouterr().err
