"""The one error that users cause, and the help it gives them."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: the message says where, what is wrong, what is allowed. Exit code 2."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest allowed name, else the allowed names, else ""."""
    choices = sorted(set(allowed))
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Allowed: {', '.join(choices[:20])}." if choices else ""
