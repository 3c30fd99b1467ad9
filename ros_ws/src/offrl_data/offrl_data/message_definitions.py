"""Where the definition of a topic's messages comes from: the bag, else a distribution's own set."""

from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from offrl_contract import InputError
from offrl_contract.definitions import (
    DEFAULT_DISTRO,
    add_folder,
    distro_definitions,
    from_texts,
    missing_types,
    msg_files,
    noetic_definitions,
    require_distro,
    require_type,
)
from offrl_contract.lazy_typestore import types_below
from rosbags.typesys.store import Typestore

from offrl_data.bags import Topic


class MessageDefinitions:
    """Definitions for bags that carry none: a distribution's, and those of a folder of .msg files.

    They are built when the first bag asks for them.
    """

    def __init__(self, distro: str = DEFAULT_DISTRO, msgs: Path | None = None) -> None:
        """Take a distribution and a folder. Raises InputError where either is not usable."""
        require_distro(distro)
        self.distro = distro
        self.msgs = msgs
        if msgs is not None:
            self.ros2  # noqa: B018  (an error in the folder is best said at once)

    @cached_property
    def identity(self) -> str:
        """Changes with the distribution and with any file of the folder."""
        files = msg_files(self.msgs) if self.msgs is not None else []
        texts = [(str(file.relative_to(str(self.msgs))), file.read_bytes()) for file in files]
        return sha256(repr((self.distro, texts)).encode()).hexdigest()

    @cached_property
    def ros2(self) -> Typestore:
        """The distribution's definitions and those of the folder."""
        store = distro_definitions(self.distro)
        if self.msgs is not None:
            add_folder(store, self.msgs)
        return store

    @cached_property
    def ros1(self) -> Typestore:
        """Those of ROS 1 Noetic, whose headers carry a sequence number."""
        return noetic_definitions()

    def of(self, topic: Topic, where: str) -> tuple[Typestore, str]:
        """Return the definitions of a topic, and a remark where its own could not be used.

        Raises InputError with the remedies where nobody defines its type, and where its messages
        are not all of one layout.
        """
        channels = topic.channels
        texts = dict.fromkeys(channel.definition for channel in channels if channel.definition)
        problem = ""
        if len({(channel.type_name, channel.wire) for channel in channels}) > 1:
            raise _several_layouts(topic, where)
        try:
            own = [_own(topic.type_name, text) for text in texts]
        except InputError as error:
            own, problem = [], str(error)
        if any(_layout(other, topic) != _layout(own[0], topic) for other in own[1:]):
            raise _several_layouts(topic, where)
        if own:
            return own[0], ""
        default = self.ros1 if topic.wire == "ros1" else self.ros2
        if problem and topic.type_name not in default.fielddefs:
            raise InputError(
                f"{where}: {topic.name}: {problem}. "
                f"Remedy: --msgs DIR with the .msg file of {topic.type_name}."
            )
        require_type(default, topic.type_name, f"{where}: {topic.name}")
        remark = f"{topic.name}: {problem}; the definition of {self.distro} is used"
        return default, remark if problem else ""


def _several_layouts(topic: Topic, where: str) -> InputError:
    kinds = dict.fromkeys(f"{channel.type_name} as {channel.wire}" for channel in topic.channels)
    return InputError(
        f"{where}: {topic.name}: its messages are of several layouts ({', '.join(kinds)}). "
        "Record them on topics of their own."
    )


def _layout(store: Typestore, topic: Topic) -> dict[str, Any]:
    """Return the fields of a topic's type and of those that it embeds."""
    names = types_below(store, topic.type_name)
    return {name: store.fielddefs[name][1] for name in names}


@lru_cache(maxsize=256)
def _own(type_name: str, definition: str) -> Typestore:
    store = from_texts({type_name: definition}, "the bag")
    missing = missing_types(store, type_name)
    if any(name.endswith("/wstring") for name in missing):  # how .msg text is parsed
        raise InputError(f"the bag: {type_name} has a wstring, which is not supported")
    if missing:
        raise InputError(f"the bag: no definition of {', '.join(sorted(missing))}")
    return store
