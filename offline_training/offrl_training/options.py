"""Reading the options of a verb: one whose value is out of range is told as a file's would be."""

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any, TypeVar

import tyro
from offrl_contract.cli import EXIT_BAD_INPUT
from pydantic import ValidationError

T = TypeVar("T")


def parse(kind: type[T], verb: str, argv: Sequence[str], **how: Any) -> T:
    """Return the options of `offrl VERB` as one of `kind`, whose parts give their names no prefix.

    SystemExit 2 where they are wrong, and why on stderr. `how` goes to tyro.cli.
    """
    how = {"prog": f"offrl {verb}", "args": argv, "config": (tyro.conf.OmitArgPrefixes,), **how}
    try:
        with redirect_stderr(io.StringIO()):
            options: T = tyro.cli(kind, **how)
            return options
    except SystemExit as leaving:
        cause: BaseException | None = leaving
        while cause is not None and not isinstance(cause, ValidationError):
            cause = cause.__context__
        if cause is None:
            if leaving.code:
                tyro.cli(kind, **how)  # says itself what is wrong, and leaves
            raise
        by_option = {error["loc"][:1]: _explain(error) for error in reversed(cause.errors())}
        sys.stderr.write("\n".join([*reversed(by_option.values()), ""]))
        raise SystemExit(EXIT_BAD_INPUT) from cause


def _explain(error: Any) -> str:
    """Return an error as `error: --batch: Input should be greater than 0, got 0`."""
    option = "".join(f"--{part}: " for part in error["loc"][:1]).replace("_", "-")
    if error["type"] == "value_error":
        return f"error: {option}{error['ctx']['error']}"
    return f"error: {option}{error['msg']}, got {error['input']!r}"
