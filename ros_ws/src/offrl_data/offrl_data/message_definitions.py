"""Where the definition of a topic's messages comes from: the bag, else a distribution's own set."""

from functools import cached_property, lru_cache
from pathlib import Path

from offrl_contract import InputError
from offrl_contract.definitions import (
    DEFAULT_DISTRO,
    add_folder,
    distro_definitions,
    from_texts,
    missing_types,
    noetic_definitions,
    require_distro,
    require_type,
)
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

        Raises InputError with the remedies where nobody defines its type.
        """
        channel = topic.channels[0]
        remark = ""
        if channel.definition:
            try:
                return _own(topic.type_name, channel.definition), ""
            except InputError as error:
                remark = f"{topic.name}: {error}; the definition of {self.distro} is used"
        default = self.ros1 if channel.wire == "ros1" else self.ros2
        require_type(default, topic.type_name, f"{where}: {topic.name}")
        return default, remark


@lru_cache(maxsize=256)
def _own(type_name: str, definition: str) -> Typestore:
    store = from_texts({type_name: definition}, "the bag")
    missing = missing_types(store, type_name)
    if missing:
        raise InputError(f"the bag: no definition of {', '.join(sorted(missing))}")
    return store
