"""Definitions out of texts: what rosbags makes of them, with classes made only when asked for."""

import pytest
from offrl_contract import InputError
from offrl_contract.definitions import add_text, from_texts
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
    ("name", "text"), [("1a/msg/Pair", "int32 x\n"), ("a/msg/Pair", "int32 class_\nint32 class\n")]
)
def test_names_that_no_class_can_have_are_malformed_messages(name: str, text: str) -> None:
    store = from_texts({name: text}, "the bag")
    with pytest.raises(MalformedMessageError):
        MessageReader(name, store).read(bytes(12))
