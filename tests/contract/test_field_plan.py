"""The batch path equals rosbags' deserialisation, on message definitions drawn at random."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offrl_contract.definitions import add_text
from offrl_contract.field_plan import FieldPlan, UnplannableError
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

NUMBERS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
NUMBERS += ("float32", "float64")
TOP = "fuzz/msg/T0"
TF = "tf2_msgs/msg/TFMessage"


@st.composite
def definitions(draw: st.DrawFn) -> str:
    """The text of a message of up to three nested types."""
    parts = []
    for level in range(3):
        names = [*NUMBERS, "string"] + [f"fuzz/T{deeper}" for deeper in range(level + 1, 3)]
        fields = draw(
            st.lists(st.tuples(st.sampled_from(names), suffixes()), min_size=1, max_size=6)
        )
        lines = [f"{name}{suffix} f{index}" for index, (name, suffix) in enumerate(fields)]
        parts.append("\n".join([*([f"MSG: fuzz/T{level}"] if level else []), *lines]))
    return f"\n{'=' * 80}\n".join(parts)


def suffixes() -> st.SearchStrategy[str]:
    return st.sampled_from(["", "", "", "[]", "[2]", "[<=3]"])


def random_message(
    store: Typestore, kind: Any, shape: np.random.Generator, content: np.random.Generator
) -> Any:
    """A value of a field: `shape` draws the lengths, `content` the numbers."""
    tag, what = kind
    if tag == Nodetype.NAME:
        fields = [random_message(store, k, shape, content) for _, k in store.fielddefs[what][1]]
        return store.types[what](*fields)
    if tag == Nodetype.BASE:
        if what[0] == "string":
            return "".join(content.choice(list("abc"), int(shape.integers(0, 4))))
        return numbers(what[0], 1, content)[0].item()
    inner, bound = what
    count = bound if tag == Nodetype.ARRAY else int(shape.integers(0, 3))
    if inner[0] == Nodetype.BASE and inner[1][0] != "string":
        return numbers(inner[1][0], count, content)
    return [random_message(store, inner, shape, content) for _ in range(count)]


def numbers(name: str, count: int, content: np.random.Generator) -> np.ndarray:
    dtype = np.dtype(name)
    if name == "bool":
        return content.integers(0, 2, count).astype(bool)
    raw = content.integers(0, 256, count * dtype.itemsize).astype(np.uint8)
    return raw.view(dtype)


def paths(store: Typestore, type_name: str, texts: bool = False, prefix: str = "") -> Iterator[str]:
    """Every field that is a number or an array of numbers; or a string or an array of strings."""
    for name, (tag, what) in store.fielddefs[type_name][1]:
        inner = what[0] if tag in (Nodetype.ARRAY, Nodetype.SEQUENCE) else (tag, what)
        if inner[0] == Nodetype.NAME:
            entries = "" if tag == Nodetype.NAME else "[]"
            yield from paths(store, inner[1], texts, f"{prefix}{name}{entries}.")
        elif (inner[1][0] == "string") is texts:
            yield prefix + name


def follow(message: Any, path: str, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a path in a message, each with its key."""
    name, _, rest = path.partition(".")
    value = getattr(message, name.removesuffix("[]"))
    key = f"{key}.{name}" if key else name
    entries = enumerate(value) if name.endswith("[]") else [(None, value)]
    for index, entry in entries:
        here = key if index is None else f"{key.removesuffix('[]')}[{index}]"
        yield from follow(entry, rest, here) if rest else [(here, entry)]


WIRES = ("little", "big", "ros1")


def encode(store: Typestore, message: Any, wire: str) -> bytes:
    if wire == "ros1":
        return bytes(store.serialize_ros1(message, TOP))
    return bytes(store.serialize_cdr(message, TOP, little_endian=wire == "little"))


def fuzz_store(text: str) -> Typestore:
    store = get_typestore(Stores.EMPTY)
    add_text(store, TOP, text, "fuzz")
    return store


@settings(max_examples=300, deadline=None)
@given(definitions(), st.sampled_from(WIRES), st.integers(0, 2**32 - 1), st.booleans())
def test_columns_equal_rosbags(text: str, wire: str, seed: int, guarded: bool) -> None:
    store = fuzz_store(text)
    content = np.random.default_rng(seed)
    shapes = [seed, seed, seed + 1, seed, seed + 2]  # the first shape thrice, and others between
    raws = [
        encode(store, random_message(store, (2, TOP), np.random.default_rng(s), content), wire)
        for s in shapes
    ]
    decode = store.deserialize_ros1 if wire == "ros1" else store.deserialize_cdr
    wanted = list(paths(store, TOP))
    same = list(paths(store, TOP, texts=True)) if guarded else []
    plan = FieldPlan(TOP, wanted, same, store, wire != "ros1")
    buffer = np.frombuffer(b"\xaa" * 3 + b"".join(raws) + b"\xaa" * 3, np.uint8)
    starts = np.cumsum([3, *map(len, raws[:-1])])
    layout = plan.layout(np.frombuffer(raws[0], np.uint8))
    same_size = np.flatnonzero([len(raw) == len(raws[0]) for raw in raws])
    rows = same_size[layout.matches(buffer, starts[same_size])]
    assert [row for row in same_size if layout.fits(raws[row])] == rows.tolist()
    assert 0 in rows
    assert guarded or {0, 1, 3} <= set(rows.tolist())
    columns = layout.columns(buffer, starts[rows])
    for index, row in enumerate(rows):
        message = decode(raws[row], TOP)
        expected = {key: value for path in wanted for key, value in follow(message, path)}
        alone = layout.read(raws[row]).columns
        assert set(columns) == set(alone) == set(expected)
        for key, value in expected.items():
            with np.errstate(invalid="ignore"):
                numbers_ = np.asarray(value, dtype=np.float64).ravel()
            np.testing.assert_array_equal(columns[key][index], numbers_, err_msg=key)
            np.testing.assert_array_equal(alone[key], numbers_[None], err_msg=key)
        for path in same:
            found = [value for _, value in follow(message, path)]
            flat = [t for value in found for t in ([value] if isinstance(value, str) else value)]
            assert layout.texts[path] == flat


@settings(max_examples=300, deadline=None)
@given(definitions(), st.sampled_from(WIRES), st.integers(0, 2**32 - 1), st.data())
def test_damaged_bytes_are_refused_or_read_inside_their_bounds(
    text: str, wire: str, seed: int, data: st.DataObject
) -> None:
    store = fuzz_store(text)
    draw = np.random.default_rng(seed)
    raw = bytearray(encode(store, random_message(store, (2, TOP), draw, draw), wire))
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    texts = list(paths(store, TOP, texts=True))
    plan = FieldPlan(TOP, paths(store, TOP), texts, store, wire != "ros1")
    buffer = np.frombuffer(cut, np.uint8)
    try:
        layout = plan.layout(buffer)
    except UnplannableError:
        return
    zero = np.zeros(1, np.int64)
    assert layout.matches(buffer, zero).all()
    assert layout.fits(cut)
    columns, alone = layout.columns(buffer, zero), layout.read(cut).columns
    for key, column in columns.items():
        np.testing.assert_array_equal(alone[key], column, err_msg=key)


def test_content_that_decides_is_guarded() -> None:
    """Joints in another order, with names of equal lengths, are another layout."""
    store = get_typestore(Stores.ROS2_KILTED)
    header = store.types["std_msgs/msg/Header"](
        store.types["builtin_interfaces/msg/Time"](0, 0), ""
    )
    empty = np.zeros(0)

    def joints(*names: str) -> bytes:
        kind = store.types["sensor_msgs/msg/JointState"]
        message = kind(header, list(names), np.array([1.0, 2.0]), empty, empty)
        return bytes(store.serialize_cdr(message, "sensor_msgs/msg/JointState"))

    raws = [joints("hip", "toe"), joints("toe", "hip"), joints("hip", "toe")]
    buffer = np.frombuffer(b"".join(raws), np.uint8)
    starts = np.arange(3) * len(raws[0])
    for same, expected in (((), [True] * 3), (("name",), [True, False, True])):
        plan = FieldPlan("sensor_msgs/msg/JointState", ("position",), same, store, True)
        layout = plan.layout(np.frombuffer(raws[0], np.uint8))
        assert layout.matches(buffer, starts).tolist() == expected


def test_entries_of_an_array_of_structures_are_columns() -> None:
    """A TF message of two transforms: a slot for each, and the frames that they are between."""
    store = get_typestore(Stores.ROS2_KILTED)
    kinds, stamp = store.types, store.types["builtin_interfaces/msg/Time"](1, 2)

    def transform(parent: str, child: str, x: float) -> object:
        return kinds["geometry_msgs/msg/TransformStamped"](
            kinds["std_msgs/msg/Header"](stamp, parent),
            child,
            kinds["geometry_msgs/msg/Transform"](
                kinds["geometry_msgs/msg/Vector3"](x, 0.0, 0.0),
                kinds["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
            ),
        )

    message = kinds[TF]([transform("map", "odom", 1.0), transform("odom", "base", 2.0)])
    raw = np.frombuffer(bytes(store.serialize_cdr(message, TF)), np.uint8)
    path = "transforms[].transform.translation.x"
    same = ("transforms[].header.frame_id", "transforms[].child_frame_id")
    layout = FieldPlan(TF, (path,), same, store, True).layout(raw)
    columns = layout.columns(raw, np.zeros(1, np.int64))
    assert {key: value.tolist() for key, value in columns.items()} == {
        "transforms[0].transform.translation.x": [[1.0]],
        "transforms[1].transform.translation.x": [[2.0]],
    }
    assert layout.texts == {same[0]: ["map", "odom"], same[1]: ["odom", "base"]}


def test_bytes_after_the_end_are_refused() -> None:
    store = fuzz_store("float64 f0")
    plan = FieldPlan(TOP, ("f0",), (), store, True)
    raw = encode(store, store.types[TOP](1.5), "little")
    assert plan.layout(np.frombuffer(raw, np.uint8)).slots["f0"].offset == 4
    with pytest.raises(UnplannableError, match="ends at byte 12 of 16"):
        plan.layout(np.frombuffer(raw + b"\0" * 4, np.uint8))
