"""Commands as messages."""

from operator import attrgetter
from typing import Any

from numpy.typing import NDArray
from offrl_contract import InputError, Robot
from offrl_contract.message_class import message_class
from offrl_contract.sampling import split_action


class CommandMessages:
    """Builds the messages of an action vector, one per command topic."""

    def __init__(self, robot: Robot) -> None:
        """Look up the classes. Raises InputError for an unknown type or field."""
        self._robot = robot
        self._classes = {term.topic: message_class(term.type) for term in robot.action}
        for term in robot.action:
            for field in term.field:
                self._require_number(self._classes[term.topic](), field, term.name)

    @property
    def classes(self) -> dict[str, Any]:
        """Message class by command topic."""
        return dict(self._classes)

    def build(self, action: NDArray[Any], stamp: Any) -> dict[str, Any]:
        """Return a message per topic for an action (a,); `stamp` goes where there is a header."""
        messages = {topic: kind() for topic, kind in self._classes.items()}
        for term, values in split_action(self._robot, action):
            for path, value in zip(term.field, values.tolist(), strict=True):
                parent, _, name = path.rpartition(".")
                target = messages[term.topic]
                setattr(attrgetter(parent)(target) if parent else target, name, value)
        for message in messages.values():
            if hasattr(message, "header"):
                message.header.stamp = stamp
        return messages

    def _require_number(self, message: Any, path: str, name: str) -> None:
        try:
            value = attrgetter(path)(message)
        except AttributeError as error:
            raise InputError(f"action '{name}': {error}") from error
        if not isinstance(value, float):
            raise InputError(f"action '{name}': {path} is {type(value).__name__}, not a float")
