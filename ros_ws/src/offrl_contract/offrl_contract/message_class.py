"""ROS 2 message classes by name, from the packages that are installed."""

import importlib
from typing import Any

from offrl_contract.errors import InputError


def message_class(type_name: str) -> Any:
    """Return the ROS 2 class of package/msg/Name. Raises InputError naming the package."""
    package, _, name = type_name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{type_name}: the ROS package '{package}' is not installed or has no such message. "
            f"Install it (apt: ros-$ROS_DISTRO-{package.replace('_', '-')}) and source its setup."
        ) from error
