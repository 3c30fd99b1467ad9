"""A Gymnasium environment in a process of its own, so that its crash does not end the run."""

import importlib
import inspect
import multiprocessing
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot

Vector = NDArray[np.float32]

GROUP = "offrl.envs"
"""Entry points by namespace: modules that register environments with Gymnasium."""
_PROCESSES = multiprocessing.get_context("spawn")
_PATIENCE = 120.0
"""An environment that says nothing for so long hangs [s]."""


class EnvCrashedError(Exception):
    """The process of an environment died, hung, or its code raised something."""


class Step(NamedTuple):
    """What a step in the environment led to."""

    observation: Vector
    """(o,)"""
    reward: float
    terminal: bool
    timeout: bool
    command: Vector
    """(a,) in force after the environment's own limits: `info["command"]`, or the action."""
    success: bool | None
    """`info["success"]`, where there is one."""


@dataclass(frozen=True)
class EnvRequest:
    """Which environment."""

    id: str
    """As in `gymnasium.make`: ID or MODULE:ID."""
    robot: str
    """Robot file, given to environments that take a `robot`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments."""


@dataclass(frozen=True)
class EnvFacts:
    """What an environment says of itself."""

    robot: str
    """Its robot file as YAML, or "" where it has none."""
    observation: tuple[int, ...]
    """Shape of the observation."""
    action: tuple[int, ...]
    """Shape of the action."""
    delay: float
    """Longest time from a command to when its effect is seen [s], where it tells."""


class EnvProcess:
    """Resets and steps an environment; after a crash the next reset begins a new process."""

    def __init__(self, request: EnvRequest) -> None:
        """Start the process. Raises InputError where there is no such environment."""
        self._request = request
        self._process: Any = None
        self.facts = self._start()

    def reset(self, seed: int) -> Vector:
        """Begin the episode of a seed; return the observation (o,). Raises EnvCrashedError."""
        if self._process is None:
            self._start()
        observation: Vector = self._ask("reset", seed)
        return observation

    def step(self, action: Vector) -> Step:
        """Take an action (a,) in SI units. Raises EnvCrashedError."""
        return Step(*self._ask("step", action))

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        self._connection.close()
        self._process.join(2.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process = None

    def _start(self) -> EnvFacts:
        self._connection, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_serve, args=(theirs, self._request), daemon=True)
        self._process.start()
        theirs.close()
        facts: EnvFacts = self._receive()
        return facts

    def _ask(self, what: str, argument: Any) -> Any:
        try:
            self._connection.send((what, argument))
        except OSError as error:
            raise self._crashed("ended") from error
        return self._receive()

    def _receive(self) -> Any:
        try:
            if not self._connection.poll(_PATIENCE):
                raise self._crashed(f"no answer for {_PATIENCE:.0f} s")
            kind, content = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._crashed("its process died") from error
        if kind == "refused":
            self.close()
            raise InputError(content)
        if kind == "crashed":
            raise self._crashed(content)
        return content

    def _crashed(self, why: str) -> EnvCrashedError:
        self.close()
        return EnvCrashedError(f"{self._request.id}: {why}")


def _serve(connection: Connection, request: EnvRequest) -> None:
    """Run an environment until the other side closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        env = _make(request)
        connection.send(("facts", _facts(env)))
        while True:
            what, argument = connection.recv()
            if what == "reset":
                observation, _ = env.reset(seed=argument)
                connection.send(("reset", np.asarray(observation, np.float32)))
            else:
                connection.send(("step", tuple(_step(env, argument))))
    except (EOFError, OSError):
        return
    except InputError as error:
        connection.send(("refused", str(error)))
    except Exception as error:  # noqa: BLE001  (whatever an environment raises is its crash)
        connection.send(("crashed", f"{type(error).__name__}: {error}"))


def _make(request: EnvRequest) -> Any:
    """Make the environment. Raises InputError where that cannot be."""
    try:
        import gymnasium
    except ModuleNotFoundError as error:
        raise InputError(
            "--env: needs the Python package 'gymnasium', which is not installed. "
            "Install the extra that has it: pip install 'offrl[sim]'"
        ) from error
    settings = dict(request.settings)
    try:
        name = _register(request.id)
        creator: Any = gymnasium.spec(name).entry_point
        if isinstance(creator, str):
            creator = gymnasium.envs.registration.load_env_creator(creator)
        takes = inspect.signature(creator).parameters
        if "robot" in takes:
            settings["robot"] = request.robot
        for setting in settings:
            if setting not in takes:
                raise InputError(f"--env {request.id}: takes no '{setting}'; leave --{setting} out")
        return gymnasium.make(name, disable_env_checker=True, **settings)
    except (gymnasium.error.Error, ImportError) as error:
        raise InputError(f"--env {request.id}: {error}") from error


def _register(env: str) -> str:
    """Import what registers `MODULE:ID` or `NAMESPACE/ID` with Gymnasium; return the bare id."""
    module, _, name = env.rpartition(":")
    if module:
        importlib.import_module(module)
    namespace, _, bare = name.rpartition("/")
    for point in entry_points(group=GROUP, name=namespace) if bare else ():
        point.load()
    return name


def _facts(env: Any) -> EnvFacts:
    robot: Any = getattr(env.unwrapped, "robot", None)
    return EnvFacts(
        robot=robot.to_yaml() if isinstance(robot, Robot) else "",
        observation=tuple(env.observation_space.shape or ()),
        action=tuple(env.action_space.shape or ()),
        delay=float(getattr(env.unwrapped, "delay", 0.0)),
    )


def _step(env: Any, action: Vector) -> Step:
    observation, reward, terminal, timeout, info = env.step(action)
    success = info.get("success")
    return Step(
        np.asarray(observation, np.float32),
        float(reward),
        bool(terminal),
        bool(timeout),
        np.asarray(info.get("command", action), np.float32),
        None if success is None else bool(success),
    )
