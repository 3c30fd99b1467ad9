"""The `offrl` command. Verbs are entry points, so a robot has only those it has packages for."""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from offrl_contract.errors import InputError, nearest

GROUP = "offrl.commands"
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

Command = Callable[[list[str]], None]


def commands() -> dict[str, EntryPoint]:
    """Return the installed verbs by name."""
    return {point.name: point for point in sorted(entry_points(group=GROUP))}


def _load(point: EntryPoint) -> Command:
    """Import a verb; a package that is not installed becomes an error that names it."""
    try:
        command: Command = point.load()
    except ModuleNotFoundError as error:
        raise InputError(
            f"offrl {point.name}: needs the Python package '{error.name}', which is not installed. "
            "Install the extra that has it: pip install 'offrl[all]'"
        ) from error
    return command


def _help(verbs: dict[str, EntryPoint]) -> str:
    lines = ["usage: offrl <verb> [options]", "", "Verbs on this machine ('offrl <verb> --help'):"]
    return "\n".join([*lines, *(f"  {name}" for name in verbs)])


def run(argv: list[str]) -> int:
    """Run one verb and return the exit code: 0 done, 2 bad input, 130 interrupted."""
    verbs = commands()
    if not argv or argv[0] in ("-h", "--help"):
        print(_help(verbs))
        return 0 if argv else EXIT_BAD_INPUT
    try:
        if argv[0] not in verbs:
            raise InputError(f"offrl: unknown verb '{argv[0]}'.{nearest(argv[0], verbs)}")
        _load(verbs[argv[0]])(argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def main() -> None:
    """Entry point of the `offrl` console script."""
    sys.exit(run(sys.argv[1:]))
