"""A reward or terminal written in Python: `{python: "module:function"}` in the robot file.

The function is imported when it is first called, by the converter or the simulator; the node on
the robot never does. It takes two mappings from term names to arrays (T, w), at ticks k and k+1,
and the actions (T, a), and returns (T,).
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl_contract.errors import InputError, nearest
from offrl_contract.module_sources import module_sources

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PythonFunction:
    """A function by its name, module:function."""

    name: str
    key: str
    """Where it stands in the robot file."""

    def __call__(
        self, now: Mapping[str, Floats], then: Mapping[str, Floats], action: Floats
    ) -> NDArray[Any]:
        """Call the function. Raises InputError where it fails, or does not return (T,)."""
        try:
            arguments = (_read_only(now), _read_only(then), _view(action))
            value = np.asarray(self._function(*arguments), np.float64)
        except InputError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{self.key}: {self.name} raised {reason}") from error
        if value.shape != (len(action),):
            raise InputError(
                f"{self.key}: {self.name} returned shape {value.shape}, not ({len(action)},)"
            )
        return value

    def sources(self) -> dict[str, bytes]:
        """Return the text by module of its own and of those that this imports."""
        with _working_directory_on_path():
            return module_sources(self.name.partition(":")[0])

    @cached_property
    def _function(self) -> Callable[..., Any]:
        module_name, _, function_name = self.name.partition(":")
        try:
            with _working_directory_on_path():
                module = importlib.import_module(module_name)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(
                f"{self.key}: module '{module_name}' cannot be imported ({reason}). It has to be "
                "in the working directory or on PYTHONPATH."
            ) from error
        function = getattr(module, function_name, None)
        if not callable(function):
            named = [name for name in vars(module) if callable(getattr(module, name))]
            raise InputError(
                f"{self.key}: '{module_name}' has no function '{function_name}'."
                f"{nearest(function_name, named)}"
            )
        found: Callable[..., Any] = function
        return found


@contextmanager
def _working_directory_on_path() -> Iterator[None]:
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _view(values: Floats) -> Floats:
    """Return values that cannot be written to."""
    view = values.view()
    view.flags.writeable = False
    return view


def _read_only(terms: Mapping[str, Floats]) -> dict[str, Floats]:
    return {name: _view(values) for name, values in terms.items()}
