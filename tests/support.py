"""A small policy file for tests of gate and node: real ONNX, with scores that a test can set."""

import json
from pathlib import Path

import numpy as np
import onnx
from offrl_contract import Robot, robot_from_yaml
from offrl_contract.definitions import definition_hashes, definition_texts, distro_definitions
from offrl_policy.gate import FalseAlarms, GateCalibration, ScoreCalibration
from offrl_policy.policy_file import FORMAT
from offrl_policy.signature import seal
from onnx import TensorProto, helper, numpy_helper

STORE = distro_definitions()
ROBOT = """
robot: test
rate: 20.0
observation:
  - {name: scan, topic: /scan, type: sensor_msgs/msg/LaserScan, field: ranges, bins: 4, max_missing: 0.5, clip: [0, 5], max_age: 0.3}
  - {name: twist, topic: /odom, type: nav_msgs/msg/Odometry, field: [twist.twist.linear.x, twist.twist.angular.z], max_age: 0.3}
  - {name: last_action, source: action}
action:
  - {name: cmd, topic: /cmd_vel, type: geometry_msgs/msg/Twist, field: [linear.x, angular.z], limits: [[-1, 1], [-2, 2]], max_rate: [4.0, 8.0], hold: 0.5, safe: [0.0, 0.0]}
reward: "twist_0"
"""  # noqa: E501


def robot(text: str = ROBOT) -> Robot:
    """The robot of these tests."""
    return robot_from_yaml(text, "test.yaml")


def calibration() -> GateCalibration:
    """Alarm at 1 for both scores; the CUSUM alarms at 4 standard deviations gathered."""
    scores = tuple(
        ScoreCalibration(
            name=name,
            mean=0.2,
            std=0.1,
            threshold=1.0,
            cusum_threshold=40.0,
            quantiles={"0.5": 0.2},
        )
        for name in ("critic_std", "knn")
    )
    alarms = FalseAlarms(
        episodes=20, alarms=1, rate=0.05, interval=(0.001, 0.249), hours=0.1, per_hour=10.0
    )
    return GateCalibration(
        alpha=0.05,
        episodes=20,
        window=None,
        slack=0.5,
        scores=scores,
        false_alarms=alarms,
        assumption="test",
    )


def network(action: np.ndarray, size: int = 8) -> onnx.ModelProto:
    """A graph that answers `action` (a,), and as scores |twist.x| / 2 and |twist.z| / 2.

    The scores are 0 for an observation of another `size` than that of the robot above.
    """
    pick = np.zeros((size, 2), np.float32)
    if size == 8:
        pick[4, 0] = pick[5, 1] = 0.5
    none = np.zeros((size, len(action)), np.float32)
    nodes = [
        helper.make_node("MatMul", ["observation", "none"], ["still"]),
        helper.make_node("Add", ["still", "bias"], ["action"]),
        helper.make_node("MatMul", ["observation", "pick"], ["picked"]),
        helper.make_node("Abs", ["picked"], ["uncertainty"]),
    ]
    constants = {"none": none, "pick": pick, "bias": np.asarray(action, np.float32)[None]}
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, [1, size])],
        [
            helper.make_tensor_value_info("action", TensorProto.FLOAT, [1, len(action)]),
            helper.make_tensor_value_info("uncertainty", TensorProto.FLOAT, [1, 2]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def write_policy(
    path: Path, action: tuple[float, ...] = (0.5, 0.25), text: str = ROBOT, **properties: str
) -> Path:
    """Write a policy file for a robot; `properties` replace metadata entries."""
    made = robot(text)
    size = made.observation_size
    golden = {
        "observations": [[0.0] * size] * 16,
        "actions": [list(action)] * 16,
        "uncertainties": [[0.0, 0.0]] * 16,
    }
    model = network(np.array(action), size)
    own = {"golden": json.dumps(golden), "algorithm": "constant"}
    helper.set_model_props(model, metadata(made) | own | properties)
    path.write_bytes(seal(model.SerializeToString()))
    return path


def metadata(robot: Robot) -> dict[str, str]:
    """The metadata of a policy file for a robot, but for the golden vectors."""
    types = set(robot.topics(signals=False).values())
    return {
        "format": FORMAT,
        "robot": robot.to_yaml(),
        "robot_digest": robot.digest(),
        "definitions": json.dumps(definition_texts(STORE, types)),
        "definition_hashes": json.dumps(definition_hashes(STORE, types)),
        "gate": calibration().model_dump_json(),
    }


def golden(**rows: list[float]) -> str:
    """Golden vectors of the test's network, some of them replaced."""
    right = {"observations": [0.0] * 8, "actions": [0.5, 0.25], "uncertainties": [0.0, 0.0]}
    return json.dumps({name: [row] * 16 for name, row in (right | rows).items()})


def odometry(x: float = 0.0, z: float = 0.0) -> object:
    """An Odometry message."""
    types = STORE.types
    vector, zeros = types["geometry_msgs/msg/Vector3"], np.zeros(36)
    pose = types["geometry_msgs/msg/Pose"](
        types["geometry_msgs/msg/Point"](0.0, 0.0, 0.0),
        types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
    )
    twist = types["geometry_msgs/msg/Twist"](vector(x, 0.0, 0.0), vector(0.0, 0.0, z))
    return types["nav_msgs/msg/Odometry"](
        header("odom"),
        "base_link",
        types["geometry_msgs/msg/PoseWithCovariance"](pose, zeros),
        types["geometry_msgs/msg/TwistWithCovariance"](twist, zeros),
    )


def scan(ranges: list[float]) -> object:
    """A LaserScan message."""
    values, none = np.array(ranges, np.float32), np.zeros(0, np.float32)
    return STORE.types["sensor_msgs/msg/LaserScan"](
        header("laser"), -3.14, 3.14, 0.1, 0.0, 0.1, 0.05, 10.0, values, none
    )


def header(frame: str) -> object:
    """A header with stamp 0."""
    stamp = STORE.types["builtin_interfaces/msg/Time"](0, 0)
    return STORE.types["std_msgs/msg/Header"](stamp, frame)


def encode(message: object, type_name: str) -> bytes:
    """Serialise to CDR."""
    return bytes(STORE.serialize_cdr(message, type_name))
