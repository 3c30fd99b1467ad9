"""Poses in another frame: by hand, against 4 x 4 matrices, and alike for a bag and a live robot."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offrl_contract import InputError, robot_from_yaml
from offrl_contract.definitions import add_text, distro_definitions, noetic_definitions
from offrl_contract.field_plan import FieldPlan, Fields
from offrl_contract.frames import POSE_PARTS, Edge, compose, invert, sample_pose, tree_of
from offrl_contract.live import Live
from offrl_contract.reader import MalformedMessageError, TermReader
from offrl_contract.sampling import Fault, Series, sample_observation
from offrl_contract.tf import TransformLog, TransformReader

MS = 1_000_000
SECOND = 1000 * MS
STORE = distro_definitions()
TYPES = STORE.types
TF = "tf2_msgs/msg/TFMessage"
POSE = "geometry_msgs/msg/PoseStamped"
ROBOT = """
robot: test
rate: 10.0
observation:
  - {name: goal, topic: /goal, type: geometry_msgs/msg/PoseStamped, field: pose, frame: base, max_age: 1.0, frame_max_age: 0.25, history: 2}
action:
  - {name: cmd, topic: /cmd, type: geometry_msgs/msg/Twist, field: linear.x, limits: [[-1, 1]], safe: [0]}
reward: "-hypot(next_goal_0, next_goal_1)"
"""  # noqa: E501
IDENTITY = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def yawed(x: float, y: float, degrees: float) -> tuple[float, ...]:
    half = np.radians(degrees) / 2.0
    return (x, y, 0.0, 0.0, 0.0, float(np.sin(half)), float(np.cos(half)))


def poses(*samples: tuple[int, tuple[float, ...], str]) -> Series:
    """A series of (stamp, pose, frame)."""
    return Series(
        np.array([stamp for stamp, _, _ in samples], np.int64),
        np.array([pose for _, pose, _ in samples], np.float64).reshape(-1, POSE_PARTS),
        frames=np.array([frame for _, _, frame in samples], np.str_),
    )


def tree(**children: list[tuple[int, tuple[float, ...], str]]) -> dict[str, Edge]:
    return tree_of({child: poses(*samples) for child, samples in children.items()}, {})


def test_goal_in_the_robot_frame_by_hand() -> None:
    """Goal (1, 0) in map. Robot at the origin, then at (1, 0) turned left, then at (1, 2) so."""
    robot = [
        (0, IDENTITY, "map"),
        (10, yawed(1.0, 0.0, 90.0), "map"),
        (20, yawed(1.0, 2.0, 90.0), "map"),
    ]
    goal = poses((0, yawed(1.0, 0.0, 0.0), "map"))
    ticks = np.array([0, 5, 10, 20])
    found = sample_pose(goal, ticks, "base", tree(base=robot), 100, 100)
    quarter = np.pi / 2.0
    expected = [[1, 0, 0], [1, 0, 0], [0, 0, -quarter], [-2, 0, -quarter]]
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    assert found.faults.tolist() == [Fault.NONE] * 4
    assert found.ages.tolist() == [0, 5, 10, 20]


def matrix(pose: np.ndarray) -> np.ndarray:
    """The 4 x 4 matrix of a pose, by the textbook's formula."""
    x, y, z, w = pose[3:] / np.linalg.norm(pose[3:])
    made = np.eye(4)
    made[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    made[:3, 3] = pose[:3]
    return made


def random_poses(draw: np.random.Generator, count: int) -> np.ndarray:
    return draw.normal(size=(count, POSE_PARTS))


@given(st.integers(0, 2**32 - 1))
def test_composition_and_inverse_are_those_of_matrices(seed: int) -> None:
    a, b = random_poses(np.random.default_rng(seed), 2)
    a[3:] /= np.linalg.norm(a[3:])
    b[3:] /= np.linalg.norm(b[3:])
    np.testing.assert_allclose(matrix(compose(a, b)), matrix(a) @ matrix(b), atol=1e-9)
    np.testing.assert_allclose(matrix(invert(a)), np.linalg.inv(matrix(a)), atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7))
def test_any_two_frames_of_a_random_tree(seed: int, size: int) -> None:
    """Quaternions of any length; the matrices are multiplied from either frame up to the root."""
    draw = np.random.default_rng(seed)
    names = [f"f{index}" for index in range(size)]
    raw = random_poses(draw, size)
    edges, to_root = {}, {names[0]: np.eye(4)}
    for index in range(1, size):
        parent = names[int(draw.integers(index))]
        edges[names[index]] = [(0, tuple(raw[index]), parent)]
        to_root[names[index]] = to_root[parent] @ matrix(raw[index])
    source, target = draw.choice(names, 2)
    held = random_poses(draw, 1)[0]
    expected = np.linalg.inv(to_root[target]) @ to_root[source] @ matrix(held)
    series = poses((0, tuple(held), source))
    found = sample_pose(series, np.array([5, 6]), target, tree(**edges), 100, 100)
    yaw = np.arctan2(expected[1, 0], expected[0, 0])
    for row in found.values:
        np.testing.assert_allclose(row[:2], expected[:2, 3], atol=1e-6)
        np.testing.assert_allclose(np.exp(1j * row[2]), np.exp(1j * yaw), atol=1e-6)


def test_faults_of_transforms() -> None:
    goal = poses((0, IDENTITY, "map"))
    ticks = np.array([5, 10, 20, 31])
    late = tree(base=[(10, IDENTITY, "map")])
    found = sample_pose(goal, ticks, "base", late, 100, 20)
    assert found.faults.tolist() == [Fault.MISSING, Fault.NONE, Fault.NONE, Fault.STALE]
    assert found.ages[3] == 21
    static = tree_of({}, {"base": poses((10, IDENTITY, "map"))})
    found = sample_pose(goal, ticks, "/base", static, 100, 20)
    assert found.faults.tolist() == [Fault.MISSING, Fault.NONE, Fault.NONE, Fault.NONE]
    apart = tree(base=[(0, IDENTITY, "odom")])
    assert (sample_pose(goal, ticks, "base", apart, 100, 100).faults == Fault.MISSING).all()
    loop = tree(map=[(0, IDENTITY, "odom")], odom=[(0, IDENTITY, "map")])
    assert (sample_pose(goal, ticks, "base", loop, 100, 100).faults == Fault.MISSING).all()
    zero = tree(base=[(0, (1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0), "map")])
    assert (sample_pose(goal, ticks, "base", zero, 100, 100).faults == Fault.NOT_FINITE).all()
    turned = poses((0, (1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0), "base"))
    assert (sample_pose(turned, ticks, "base", {}, 100, 100).faults == Fault.NOT_FINITE).all()


def test_frames_that_change() -> None:
    """The goal comes in map, then in base itself; the base hangs on odom, then on map."""
    goal = poses((0, yawed(3.0, 0.0, 0.0), "map"), (30, yawed(7.0, 0.0, 0.0), "base"))
    edges = tree(
        odom=[(0, yawed(1.0, 0.0, 0.0), "map")],
        base=[(0, yawed(1.0, 0.0, 0.0), "odom"), (20, yawed(0.5, 0.0, 0.0), "map")],
    )
    found = sample_pose(goal, np.array([10, 20, 30]), "base", edges, 100, 100)
    np.testing.assert_allclose(found.values[:, 0], [1.0, 2.5, 7.0], atol=1e-12)


def stamped(pose: tuple[float, ...], frame: str) -> Any:
    return TYPES[POSE](
        TYPES["std_msgs/msg/Header"](TYPES["builtin_interfaces/msg/Time"](0, 0), frame),
        TYPES["geometry_msgs/msg/Pose"](
            TYPES["geometry_msgs/msg/Point"](*pose[:3]),
            TYPES["geometry_msgs/msg/Quaternion"](*pose[3:]),
        ),
    )


def tf_message(*entries: tuple[str, str, tuple[float, ...]], store: Any = STORE) -> Any:
    kinds, extra = store.types, () if store is STORE else (0,)
    return kinds[TF](
        [
            kinds["geometry_msgs/msg/TransformStamped"](
                kinds["std_msgs/msg/Header"](
                    *extra, kinds["builtin_interfaces/msg/Time"](0, 0), parent
                ),
                child,
                kinds["geometry_msgs/msg/Transform"](
                    kinds["geometry_msgs/msg/Vector3"](*pose[:3]),
                    kinds["geometry_msgs/msg/Quaternion"](*pose[3:]),
                ),
            )
            for child, parent, pose in entries
        ]
    )


@pytest.mark.parametrize("wire", ["cdr", "ros1"])
def test_columns_and_messages_give_the_same_transforms(wire: str) -> None:
    store = STORE
    if wire == "ros1":
        store = noetic_definitions()
        add_text(store, TF, "geometry_msgs/TransformStamped[] transforms", "test")
    draw = np.random.default_rng(0)
    raws = []
    messages = []
    for _ in range(3):
        a, b, c = (tuple(row) for row in random_poses(draw, 3))
        made = tf_message(
            ("/odom", "map", a), ("base", "odom", b), ("", "odom", c), ("x", "/x", c), store=store
        )
        encode = store.serialize_cdr if wire == "cdr" else store.serialize_ros1
        messages.append(made)
        raws.append(bytes(encode(made, TF)))
    reader = TransformReader(store)
    plan = FieldPlan(TF, reader.paths, reader.same, store, wire == "cdr")
    buffer = np.frombuffer(b"".join(raws), np.uint8)
    starts = np.arange(3) * len(raws[0])
    layout = plan.layout(np.frombuffer(raws[0], np.uint8))
    assert layout.matches(buffer, starts).all()
    batch = reader.read(Fields(layout.columns(buffer, starts), layout.texts))
    assert [(each.child, each.parent) for each in batch] == [("odom", "map"), ("base", "odom")]
    for row, message in enumerate(messages):
        for whole, one in zip(batch, reader.read(reader.fields(message)), strict=True):
            assert (one.child, one.parent) == (whole.child, whole.parent)
            np.testing.assert_array_equal(one.poses[0], whole.poses[row])


def test_the_last_transform_of_one_instant_counts() -> None:
    log, reader = TransformLog(), TransformReader(STORE)
    for row, (stamp, x) in enumerate(((5, 1.0), (0, 2.0), (5, 3.0))):
        first, last = ("base", "odom", yawed(0.0, x, 0.0)), ("base", "odom", yawed(x, 0.0, 0.0))
        log.add(
            np.array([stamp]), np.array([row]), reader.read(reader.fields(tf_message(first, last)))
        )
    found = log.series()["base"]
    assert found.stamps.tolist() == [0, 0, 5, 5, 5, 5]
    assert found.values[-1, 0] == 3.0


frame_events = st.lists(
    st.tuples(
        st.integers(0, 1500),
        st.sampled_from(["goal", "tf", "static"]),
        st.sampled_from(["base", "odom", "map", "tool"]),
        st.sampled_from(["base", "odom", "map", "tool"]),
        st.integers(0, 2**32 - 1),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(events=frame_events, phase=st.integers(0, 99))
def test_bag_and_live_give_the_same_poses(
    events: list[tuple[int, str, str, str, int]], phase: int
) -> None:
    """Trees that grow, change parents and loop; goals in any frame; transforms that age."""
    robot = robot_from_yaml(ROBOT, "test.yaml")
    reader = TransformReader(STORE)
    logs = {"tf": TransformLog(), "static": TransformLog()}
    goals: list[tuple[int, tuple[float, ...], str]] = []
    sent: list[tuple[int, str, Any, str]] = []
    for row, (at, topic, child, parent, seed) in enumerate(sorted(events, key=lambda e: e[0])):
        pose = tuple(random_poses(np.random.default_rng(seed), 1)[0])
        if topic == "goal":
            goals.append((at * MS, pose, parent))
            sent.append((at * MS, "/goal", stamped(pose, parent), POSE))
        else:
            made = tf_message((child, parent, pose))
            found = reader.read(reader.fields(made))
            logs[topic].add(np.array([at * MS]), np.array([row]), found)
            sent.append((at * MS, "/tf" if topic == "tf" else "/tf_static", made, TF))
    ticks = np.arange(phase, 1700, 100, dtype=np.int64) * MS
    nothing = Series(np.zeros(0, np.int64), np.empty((0, 1)))
    series = {"goal": poses(*goals), "cmd": nothing}
    edges = tree_of(logs["tf"].series(), logs["static"].series())
    bag = sample_observation(robot, series, ticks, edges)["goal"]
    live = Live(robot, STORE)
    for k, tick in enumerate(ticks.tolist()):
        while sent and sent[0][0] <= tick:
            stamp, name, content, kind = sent.pop(0)
            live.push(name, stamp, bytes(STORE.serialize_cdr(content, kind)))
        seen = live.observe(tick).terms["goal"]
        assert seen.faults[0] == bag.faults[k]
        if not seen.faults[0]:
            np.testing.assert_allclose(seen.values[0], bag.values[k], rtol=1e-12, atol=1e-12)


def live_robot() -> Live:
    live = Live(robot_from_yaml(ROBOT.replace(", history: 2", ""), "test.yaml"), STORE)
    live.push("/goal", 0, stamped(yawed(1.0, 0.0, 0.0), "/map"))
    return live


def words(live: Live, tick: int) -> str:
    (fault,) = live.observe(tick).faults
    return fault.text


def test_a_live_robot_says_which_transform_is_missing_or_old() -> None:
    live = live_robot()
    assert words(live, 0) == "goal: no transform from 'map' to 'base' yet"
    live.push("/tf", 0, tf_message(("base", "map", IDENTITY)))
    assert not live.observe(0).faults
    assert words(live, 400 * MS) == "goal: transform 0.40 s old"
    assert words(live, 2 * SECOND) == "goal: 2.00 s old"


def test_static_transforms_outlast_all_windows_and_a_reset() -> None:
    live = live_robot()
    live.push("/tf_static", 0, tf_message(("lidar", "base", IDENTITY)))
    live.push("/tf_static", 0, tf_message(("base", "map", yawed(0.0, 1.0, 0.0))))
    for k in range(100):
        live.push("/tf", k * SECOND, tf_message(("wheel", "base", IDENTITY)))
    live.push("/goal", 100 * SECOND, stamped(yawed(1.0, 0.0, 0.0), "map"))
    np.testing.assert_allclose(live.observe(100 * SECOND).vector, [1.0, -1.0, 0.0])
    live.reset()
    live.push("/goal", 5 * SECOND, stamped(yawed(1.0, 0.0, 0.0), "map"))
    np.testing.assert_allclose(live.observe(5 * SECOND).vector, [1.0, -1.0, 0.0])


def test_a_malformed_transform_is_an_error_of_its_message_alone() -> None:
    live = live_robot()
    live.push("/tf", 0, tf_message(("base", "map", IDENTITY)))
    with pytest.raises(MalformedMessageError, match=r"tf2_msgs/msg/TFMessage of 9 bytes"):
        live.push("/tf", 1, b"\x00\x01\x00\x00short")
    assert not live.observe(2).faults


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("field: pose.position", "frame needs a geometry_msgs/msg/Pose, 'pose.position' is none"),
        (
            "type: geometry_msgs/msg/PoseWithCovariance",
            "frame needs a header, geometry_msgs/msg/PoseWithCovariance begins with none",
        ),
        ("field: [pose, pose]", "frame: takes one field, a Pose, not 2"),
        ("frame: base, yaw: true", "yaw and frame exclude each other"),
    ],
)
def test_a_frame_term_that_does_not_fit_is_refused(options: str, sentence: str) -> None:
    key = options.partition(":")[0]
    old = next(part for part in ROBOT.split(", ") if part.startswith(f"{key}:"))
    text = ROBOT.replace(old, options, 1)
    with pytest.raises(InputError) as error:
        TermReader(robot_from_yaml(text, "test.yaml").observation[0], STORE)
    assert sentence in str(error.value)


def test_topics_of_transforms_are_read_but_a_log_may_lack_them() -> None:
    robot = robot_from_yaml(ROBOT, "test.yaml")
    assert robot.topics(signals=False) == robot.required_topics() | {"/tf": TF, "/tf_static": TF}
    assert robot.observation_size == 6
    assert robot_from_yaml(ROBOT.replace(", frame: base", ", frame: ''"), "t").topics().keys() == {
        "/goal",
        "/cmd",
    }
