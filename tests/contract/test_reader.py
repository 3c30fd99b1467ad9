"""Reading fields out of messages: every kind of term, and what is refused."""

import numpy as np
import pytest
from offrl_contract import InputError
from offrl_contract.counts import ValueCounts
from offrl_contract.definitions import distro_definitions, from_texts, noetic_definitions
from offrl_contract.field_plan import Fields
from offrl_contract.field_reader import FieldReader
from offrl_contract.reader import MalformedMessageError, MessageReader, TermReader, Wire
from offrl_contract.robot import Term
from pydantic import ValidationError

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
    assert reader.values(reader.fields(through_the_wire(message, kind))).tolist() == [
        3.0,
        1.0,
        6.0,
        4.0,
    ]
    message = make(kind, name=["hip"], position=np.array([1.0]), velocity=np.array([1.0]))
    with pytest.raises(MalformedMessageError, match="no 'knee' in the message"):
        reader.values(reader.fields(message))


def test_scan_outside_its_range_is_no_reading_or_no_return() -> None:
    kind = "sensor_msgs/msg/LaserScan"
    reader = TermReader(term(type=kind, field="ranges", bins=3, clip=[0.0, 9.0]), STORE)
    ranges = np.array([0.0, 2.0, np.inf, np.inf, 99.0, 3.0], np.float32)
    message = make(kind, ranges=ranges, range_min=0.1, range_max=10.0)
    assert reader.values(reader.fields(through_the_wire(message, kind))).tolist() == [2.0, 9.0, 3.0]
    message = make(kind, ranges=np.zeros(6, np.float32), range_min=0.1, range_max=10.0)
    assert np.isnan(
        reader.values(reader.fields(message))
    ).all()  # no bin has a reading: the tick is not usable


def test_what_the_rules_dealt_with_is_counted_and_sums() -> None:
    """Eight readings, of which one is NaN, two are inf and two are outside the sensor's range."""
    kind = "sensor_msgs/msg/LaserScan"
    reader = TermReader(term(type=kind, field="ranges", bins=2, clip=[0.5, 4.0]), STORE)
    ranges = np.array([0.05, np.nan, 0.3, 9.0, 2.0, np.inf, -np.inf, 12.0], np.float32)
    first = make(kind, ranges=ranges, range_min=0.1, range_max=10.0)
    values, counts = reader.read(reader.fields(through_the_wire(first, kind)))
    np.testing.assert_array_equal(values, [[0.5, 2.0]])
    assert counts == ValueCounts(
        1, 8, nan=1, inf=2, out_of_range=2, most_missing=5 / 8, clipped=1, lengths={8: 1}
    )
    second = make(kind, ranges=np.full(4, 1.0, np.float32), range_min=0.1, range_max=10.0)
    total = counts + counts + reader.read(reader.fields(second))[1]
    assert (total.messages, total.values, total.inf, total.lengths) == (3, 20, 4, {8: 2, 4: 1})


def test_values_of_a_batch_are_counted_at_once() -> None:
    kind = "nav_msgs/msg/Odometry"
    reader = TermReader(term(type=kind, field="twist.twist.linear.x", clip=[-1, 1]), STORE)
    column = np.array([0.0, 3.0, np.nan, np.inf, -2.0])[:, None]
    values, counts = reader.read(Fields({"twist.twist.linear.x": column}, {}))
    np.testing.assert_array_equal(values[:, 0], [0.0, 1.0, np.nan, 1.0, -1.0])
    assert counts == ValueCounts(5, 5, nan=1, inf=1, clipped=2)


def test_a_scan_with_too_many_missing_readings_is_unusable() -> None:
    """Of ten readings 2, 3 and 4 are missing: inf, NaN and below the range alike."""
    kind = "sensor_msgs/msg/LaserScan"
    scan = term(type=kind, field="ranges", bins=2, clip=[0.1, 5.0], max_missing=0.3)
    reader = TermReader(scan, STORE)
    gone = np.array([np.inf, np.nan, 0.0, np.inf], np.float32)
    messages = [
        make(
            kind,
            ranges=np.concatenate([np.full(10 - n, 2.0, np.float32), gone[:n]]),
            range_min=0.1,
            range_max=10.0,
        )
        for n in (2, 3, 4)
    ]
    assert reader.values(reader.fields(messages[1])).tolist() == [2.0, 2.0]
    with pytest.raises(MalformedMessageError, match="t: 4 of 10 readings are missing, at most 3 m"):
        reader.values(reader.fields(messages[2]))
    one_by_one = [reader.read(reader.fields(message)) for message in messages]
    ranges = np.stack([message.ranges for message in messages])
    limits = {
        name: np.full((3, 1), value) for name, value in (("range_min", 0.1), ("range_max", 10.0))
    }
    values, counts = reader.read(Fields({"ranges": ranges, **limits}, {}))
    np.testing.assert_array_equal(values, np.concatenate([each for each, _ in one_by_one]))
    np.testing.assert_array_equal(np.isnan(values).all(1), [False, False, True])
    assert (counts.scarce, counts.most_missing) == (1, 0.4)
    assert sum((each for _, each in one_by_one), ValueCounts()) == counts


def test_max_missing_is_for_arrays() -> None:
    with pytest.raises(ValidationError, match="max_missing: takes an array"):
        term(type="nav_msgs/msg/Odometry", field="twist.twist.linear.x", max_missing=0.1)


def test_quaternion_becomes_a_heading() -> None:
    kind = "geometry_msgs/msg/PoseStamped"
    reader = TermReader(term(type=kind, field="pose.orientation", yaw=True), STORE)
    turn = STORE.types["geometry_msgs/msg/Quaternion"](0.0, 0.0, np.sin(0.4), np.cos(0.4))
    pose = make("geometry_msgs/msg/Pose", orientation=turn)
    values = reader.values(reader.fields(through_the_wire(make(kind, pose=pose), kind)))
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
        turning = TermReader(term(type=kind, field="angular_velocity.z"), store)
        assert turning.values(turning.fields(reader.read(raw))).tolist() == [3.0]


def test_fields_are_the_same_by_layout_and_by_rosbags() -> None:
    """Of one type, in turns of three lengths; cut off, the message is refused by name."""
    kind = "sensor_msgs/msg/JointState"
    terms = [TermReader(term(type=kind, field="position", select=["hip"]), STORE)]
    reader = FieldReader(kind, terms, STORE)
    for names in (
        ["hip"],
        ["knee", "hip"],
        ["hip", "knee"],
        ["knee", "hip"],
        ["toe", "shin", "hip"],
    ):
        place = np.arange(1.0, len(names) + 1.0)
        raw = bytes(STORE.serialize_cdr(make(kind, name=names, position=place), kind))
        by_layout, by_rosbags = reader.read(raw), reader.read_generally(raw)
        assert by_layout.columns["position"].tolist() == [place.tolist()]
        assert by_rosbags.columns["position"].tolist() == [place.tolist()]
        assert list(by_layout.texts["name"]) == list(by_rosbags.texts["name"]) == names
        assert terms[0].values(by_layout) == [names.index("hip") + 1.0]
        with pytest.raises(MalformedMessageError, match=f"{kind} of {len(raw) - 8} bytes"):
            reader.read(raw[:-8])


@pytest.mark.parametrize(("wire", "expected"), [("cdr", 200.0), ("ros1", -56.0)])
def test_a_byte_has_a_sign_in_ros1_alone(wire: Wire, expected: float) -> None:
    store = from_texts({"my/msg/A": "byte x"}, "test")
    reader = TermReader(term(type="my/msg/A", field="x"), store)
    raw = b"\0\1\0\0\xc8" if wire == "cdr" else b"\xc8"
    assert FieldReader("my/msg/A", [reader], store, wire).read(raw).columns["x"] == expected


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
        (
            {"type": "std_msgs/msg/Float64MultiArray", "field": "data", "select": "hip"},
            "select needs an array `name` of strings",
        ),
    ],
)
def test_field_that_does_not_fit_is_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        TermReader(term(**options), STORE)
    assert sentence in str(error.value)
    assert str(error.value).startswith("term 't': ")
