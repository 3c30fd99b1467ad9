"""Definitions out of texts: what rosbags makes of them, with classes made only when asked for."""

import pytest
from offrl_contract import InputError
from offrl_contract.definitions import add_text, from_texts, missing_types
from offrl_contract.reader import MalformedMessageError, MessageReader
from rosbags.typesys import Stores, get_typestore


@pytest.mark.parametrize("distribution", [Stores.ROS2_KILTED, Stores.ROS1_NOETIC])
def test_definitions_are_those_of_rosbags(distribution: Stores) -> None:
    known = get_typestore(distribution)
    for name in known.types:
        text = known.generate_msgdef(name, ros_version=2)[0]
        eager = get_typestore(Stores.EMPTY)
        add_text(eager, name, text, "test")
        lazy = from_texts({name: text}, "test")
        assert lazy.fielddefs == eager.fielddefs
        assert lazy.hash_rihs01(name) == eager.hash_rihs01(name)


def nested(inner: str) -> str:
    """Return the text of a type whose field `y` is an embedded b/Inner."""
    return f"int32 x\nb/Inner y\n{'=' * 80}\nMSG: b/Inner\n{inner} z\n"


def test_classes_are_made_when_a_message_is_read() -> None:
    store = from_texts({"a/msg/Pair": nested("int32")}, "the bag")
    assert not store.types
    message = MessageReader("a/msg/Pair", store).read(bytes([0, 1, 0, 0, 5, 0, 0, 0, 7, 0, 0, 0]))
    assert (message.x, message.y.z) == (5, 7)


def test_two_definitions_of_one_name_that_differ_are_refused() -> None:
    assert from_texts({"a/msg/A": nested("int32"), "a/msg/B": nested("int32")}, "the bag")
    with pytest.raises(InputError, match="b/msg/Inner' is already present with different"):
        from_texts({"a/msg/A": nested("int32"), "a/msg/B": nested("int64")}, "the bag")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("1a/msg/Pair", "int32 x\n", "is no name of a message"),
        ("a/msg/Pair", "int32 class_\nint32 class\n", "two members of one name"),
        ("a/msg/Pair", "int32 x\nfloat64 x\n", "two members of one name"),
    ],
)
def test_names_that_no_class_can_have_are_refused(name: str, text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        from_texts({name: text}, "the bag")


def test_wide_strings_are_refused() -> None:
    text = "=" * 80 + "\nIDL: a/msg/Wide\nmodule a { module msg { struct Wide { wstring x; }; }; };"
    with pytest.raises(InputError, match="x is a wstring, which is not supported"):
        from_texts({"a/msg/Wide": text}, "the bag")


def test_a_type_that_contains_itself_is_refused() -> None:
    store = from_texts({"a/msg/Ring": "int32 x\na/Ring y\n"}, "the bag")
    with pytest.raises(InputError, match="'a/msg/Ring' contains itself"):
        missing_types(store, "a/msg/Ring")
    with pytest.raises(MalformedMessageError, match="contains itself"):
        MessageReader("a/msg/Ring", store).read(bytes(12))


def test_a_type_that_lacks_a_part_spoils_no_other() -> None:
    store = from_texts({"a/msg/Half": "b/Missing y\n", "a/msg/One": "int32 x\n"}, "the bag")
    assert missing_types(store, "a/msg/Half") == {"b/msg/Missing"}
    reader = MessageReader("a/msg/One", store)
    reader.prepare()
    assert reader.read(bytes([0, 1, 0, 0, 5, 0, 0, 0])).x == 5
    with pytest.raises(InputError, match="a/msg/Half"):
        MessageReader("a/msg/Half", store).prepare()


def test_names_differ_in_case_between_ros_1_and_2() -> None:
    assert from_texts({"a/msg/A": nested("int32"), "b/msg/Inner": "int32 Z\n"}, "the bag")
