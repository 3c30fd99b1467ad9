"""Reading fields out of messages: every kind of term, and what is refused."""

import numpy as np
import pytest
from offrl_contract import InputError
from offrl_contract.definitions import distro_definitions, noetic_definitions
from offrl_contract.reader import MalformedMessageError, MessageReader, TermReader
from offrl_contract.robot import Term

STORE = distro_definitions()


def term(**options: object) -> Term:
    return Term(**({"name": "t", "topic": "/t"} | options))  # type: ignore[arg-type]


def make(type_name: str, **fields: object) -> object:
    """Build a message whose other fields are zero."""
    kind = STORE.types[type_name]
    values = {}
    for name, (node, detail) in STORE.fielddefs[type_name][1]:
        if name in fields:
            values[name] = fields[name]
        elif node == 2:
            values[name] = make(detail)
        elif node == 1:
            values[name] = "" if detail[0] == "string" else 0
        elif node == 3:
            values[name] = np.zeros(detail[1], np.float64)
        else:
            values[name] = np.zeros(0, np.float32)
    return kind(**values)


def through_the_wire(message: object, type_name: str, wire: str = "cdr") -> object:
    store = STORE if wire == "cdr" else noetic_definitions()
    serialize = store.serialize_cdr if wire == "cdr" else store.serialize_ros1
    return MessageReader(type_name, store, wire).read(bytes(serialize(message, type_name)))  # type: ignore[arg-type]


def test_joints_are_picked_by_name() -> None:
    kind = "sensor_msgs/msg/JointState"
    reader = TermReader(
        term(type=kind, field=["position", "velocity"], select=["knee", "hip"]), STORE
    )
    names, position, velocity = ["hip", "foot", "knee"], [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
    message = make(kind, name=names, position=np.array(position), velocity=np.array(velocity))
    assert reader.values(through_the_wire(message, kind)).tolist() == [3.0, 1.0, 6.0, 4.0]
    message = make(kind, name=["hip"], position=np.array([1.0]), velocity=np.array([1.0]))
    with pytest.raises(MalformedMessageError, match="no 'knee' in the message"):
        reader.values(message)


def test_scan_outside_its_range_is_no_reading_or_no_return() -> None:
    kind = "sensor_msgs/msg/LaserScan"
    reader = TermReader(term(type=kind, field="ranges", bins=3, clip=[0.0, 9.0]), STORE)
    ranges = np.array([0.0, 2.0, np.inf, np.inf, 99.0, 3.0], np.float32)
    message = make(kind, ranges=ranges, range_min=0.1, range_max=10.0)
    assert reader.values(through_the_wire(message, kind)).tolist() == [2.0, 9.0, 3.0]
    message = make(kind, ranges=np.zeros(6, np.float32), range_min=0.1, range_max=10.0)
    assert np.isnan(reader.values(message)).all()  # no bin has a reading: the tick is not usable


def test_quaternion_becomes_a_heading() -> None:
    kind = "geometry_msgs/msg/PoseStamped"
    reader = TermReader(term(type=kind, field="pose.orientation", yaw=True), STORE)
    turn = STORE.types["geometry_msgs/msg/Quaternion"](0.0, 0.0, np.sin(0.4), np.cos(0.4))
    pose = make("geometry_msgs/msg/Pose", orientation=turn)
    values = reader.values(through_the_wire(make(kind, pose=pose), kind))
    np.testing.assert_allclose(values, [0.8])


def test_header_stamp_is_read_from_either_wire_without_decoding() -> None:
    for wire, store in (("cdr", STORE), ("ros1", noetic_definitions())):
        kind = "sensor_msgs/msg/Imu"
        stamp = store.types["builtin_interfaces/msg/Time"](12, 34)
        header = store.types["std_msgs/msg/Header"](
            **({"seq": 7} if wire == "ros1" else {}), stamp=stamp, frame_id="base"
        )
        vector = store.types["geometry_msgs/msg/Vector3"](1.0, 2.0, 3.0)
        turn = store.types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
        nine = np.zeros(9)
        imu = store.types[kind](header, turn, nine, vector, nine, vector, nine)
        raw = bytes((store.serialize_cdr if wire == "cdr" else store.serialize_ros1)(imu, kind))
        reader = MessageReader(kind, store, wire)  # type: ignore[arg-type]
        assert reader.header_stamp(raw) == 12 * 10**9 + 34
        assert TermReader(term(type=kind, field="angular_velocity.z"), store).values(
            reader.read(raw)
        ).tolist() == [3.0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"type": "nav_msgs/msg/Odometri", "field": "x"}, "no definition of nav_msgs/msg/Odometri"),
        (
            {"type": "nav_msgs/msg/Odometry", "field": "twist.twist.liner.x"},
            "Did you mean 'linear'?",
        ),
        ({"type": "nav_msgs/msg/Odometry", "field": "twist.twist.linear"}, "is not a number"),
        ({"type": "nav_msgs/msg/Odometry", "field": "child_frame_id"}, "is not a number"),
        (
            {"type": "nav_msgs/msg/Odometry", "field": "child_frame_id.x"},
            "has no fields of its own",
        ),
        ({"type": "sensor_msgs/msg/LaserScan", "field": "ranges"}, "give bins, select or size"),
        ({"type": "sensor_msgs/msg/LaserScan", "field": "range_min", "bins": 3}, "not an array"),
        ({"type": "nav_msgs/msg/Odometry", "field": "header", "yaw": True}, "needs a quaternion"),
    ],
)
def test_field_that_does_not_fit_is_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        TermReader(term(**options), STORE)
    assert sentence in str(error.value)
    assert str(error.value).startswith("term 't': ")
