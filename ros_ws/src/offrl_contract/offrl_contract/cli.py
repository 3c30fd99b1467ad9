"""The `offrl` command. Verbs are entry points, so a robot has only those it has packages for."""

import argparse
import os
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from offrl_contract.errors import InputError, nearest

GROUP = "offrl.commands"
INSPECTORS = "offrl.inspectors"
BAGS = ("bag", "db3", "mcap", "folder")
"""Inspectors that take more than a path."""
PURPOSES = {
    "convert": "bags to a dataset",
    "dataset": "a dataset to and from the formats of other libraries",
    "evaluate": "what a policy would earn, estimated from a log",
    "export": "a run to policy.onnx, with its gate calibrated",
    "finetune": "train a run on, in an environment or on new bags",
    "inspect": "print what a bag, a dataset or a policy file holds",
    "record": "log the simulated robot into bags",
    "replay": "decide the ticks of a recorded drive again",
    "report": "a dataset or a policy file as a web page",
    "serve": "start the ROS 2 node of a policy file",
    "sim": "drive the simulated robot, or fit it to logs",
    "sweep": "train many runs at once",
    "train": "a dataset to a run",
}
"""What each verb does, here and not in its package, which may take seconds to import."""
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def commands() -> dict[str, EntryPoint]:
    """Return the installed verbs by name."""
    return {point.name: point for point in sorted(entry_points(group=GROUP))}


def inspect(argv: list[str]) -> None:
    """Run `offrl inspect`: print a bag, a dataset or a policy file, by its suffix."""
    parser = argparse.ArgumentParser("offrl inspect", description="Print what a file holds.")
    parser.add_argument("path", type=Path, help="a bag, a dataset (.h5) or a policy file (.onnx)")
    of_bag = parser.add_argument_group("of a bag")
    of_bag.add_argument("--topic", help="show its rate, and its fields as a robot file names them")
    of_bag.add_argument("--msgs", type=Path, help="folder of .msg files, for types of your own")
    of_bag.add_argument("--distro", help="ROS 2 distribution of a recording without definitions")
    given = vars(parser.parse_args(argv))
    path: Path = given.pop("path")
    options = {name: value for name, value in given.items() if value is not None}
    inspectors = {point.name: point for point in entry_points(group=INSPECTORS)}
    plain = path.with_suffix("") if path.suffix == ".zstd" else path  # as rosbag2 compresses files
    kind = "folder" if path.is_dir() else plain.suffix.removeprefix(".")
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file")
    if kind not in inspectors:
        raise InputError(f"{path}: nothing here reads '{path.suffix}'.{nearest(kind, inspectors)}")
    if options and kind not in BAGS:
        raise InputError(f"{path}: is no bag, and has no --{next(iter(options))}")
    if options and "topic" not in options:
        raise InputError(f"--{next(iter(options))}: only with --topic, whose messages it defines")
    _load(inspectors[kind])(path, **options)


def _load(point: EntryPoint) -> Callable[..., int | None]:
    """Import a verb; a package that is not installed becomes an error that names it."""
    try:
        command: Callable[..., int | None] = point.load()
    except ModuleNotFoundError as error:
        raise InputError(
            f"offrl {point.name}: needs the Python package '{error.name}', which is not installed. "
            "Install the extra that has it: pip install 'offrl[all]'"
        ) from error
    return command


def _help(verbs: dict[str, EntryPoint]) -> str:
    lines = ["usage: offrl <verb> [options]", "", "Verbs on this machine ('offrl <verb> --help'):"]
    named = (f"  {name:<10}{PURPOSES.get(name, '')}".rstrip() for name in verbs)
    return "\n".join([*lines, *named])


def run(argv: list[str]) -> int:
    """Run one verb and return its exit code: 0 done, 2 bad input, 130 interrupted."""
    verbs = commands()
    if not argv or argv[0] in ("-h", "--help"):
        print(_help(verbs))
        return 0 if argv else EXIT_BAD_INPUT
    try:
        if argv[0] not in verbs:
            raise InputError(f"offrl: unknown verb '{argv[0]}'.{nearest(argv[0], verbs)}")
        return _load(verbs[argv[0]])(argv[1:]) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def main() -> None:
    """Entry point of the `offrl` console script."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names of files
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_BROKEN_PIPE
    sys.exit(code)


if __name__ == "__main__":
    main()
