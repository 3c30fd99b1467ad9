"""The policy file: one ONNX file with network, normalisation, gate, robot file, golden vectors.

It is untrusted input. Its checksum, its signature where one is required, and everything that it may
hold are checked on its bytes (`onnx_rules`) before the runtime reads them.
"""

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import yaml
from numpy.typing import NDArray
from offrl_contract import InputError, Robot, robot_from_yaml
from offrl_contract.robot import Spec
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors
from pydantic import TypeAdapter, ValidationError

from offrl_policy.gate import GateCalibration
from offrl_policy.onnx_rules import RuleError, check_model
from offrl_policy.signature import require_signature, unseal

FORMAT = "offrl-policy-1"
GOLDEN_TOLERANCE = 1e-4
"""Largest difference of a golden action, relative to the action range."""
SCORE_TOLERANCE = 0.01
"""Largest difference of a golden score, relative to its threshold."""
MAX_BYTES = 256 * 2**20
MAX_WORKING_BYTES = 2**30
"""Memory of the runtime: weights and what a tick needs."""
MAX_METADATA = 16 * 2**20
"""Bytes of one metadata entry."""
MAX_ROBOT = 2**18
"""Characters of the robot file."""
MAX_STATE = 2**20
"""Numbers that a recurrent policy may carry from tick to tick."""
BEFORE = "state_before"
"""Input (1, o + a + 1) of a graph that judges transitions: the observation a tick ago, the command
in force since, and 1 where these are known."""
_ROBOT_DEPTH = 12
_KEYS = ("format", "robot", "robot_digest", "definitions", "definition_hashes", "gate", "golden")
_RUNTIME_ERRORS = (
    runtime_errors.Fail,
    runtime_errors.InvalidArgument,
    runtime_errors.InvalidGraph,
    runtime_errors.InvalidProtobuf,
    runtime_errors.NoModel,
    runtime_errors.NoSuchFile,
    runtime_errors.NotImplemented,
    runtime_errors.RuntimeException,
)

Vector = NDArray[np.float32]
Memory = tuple[Vector, ...]
"""What a recurrent policy carries from one tick to the next; () for others."""


class Golden(Spec):
    """Observations of the dataset, with what the graph answered at export, one after another."""

    observations: tuple[tuple[float, ...], ...]
    """(n, o)"""
    actions: tuple[tuple[float, ...], ...]
    """(n, a)"""
    uncertainties: tuple[tuple[float, ...], ...]
    """(n, k)"""


class Answer(NamedTuple):
    """What the graph says at a tick."""

    action: Vector
    """(a,), SI units."""
    uncertainty: Vector
    """(k,)"""
    memory: Memory
    """For the next tick."""


class Policy:
    """A loaded policy file: observation in, action and uncertainty out."""

    def __init__(self, path: Path, trusted_keys: Path | None = None) -> None:
        """Load and check a policy file. Raises InputError with the sentence that says why not.

        With `trusted_keys`, a PEM file of public keys, it must be signed by one of them.
        """
        self.path = path
        content = _read(path)
        try:
            unsealed = unseal(content)
            if trusted_keys is not None:
                require_signature(unsealed, trusted_keys)
            properties = check_model(content)
            self._session = _session(content)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except (RuleError, ValueError) as error:
            raise InputError(f"{path}: {error}") from error
        self._read_metadata(properties)
        self._check_graph()

    @property
    def initial_memory(self) -> Memory:
        """What a recurrent policy begins an episode with: zeros."""
        return tuple(np.zeros(shape, np.float32) for shape in self._states.values())

    def run(self, observation: Vector, memory: Memory | None = None) -> Answer:
        """Return the answer to an observation (o,), the first of an episode without a memory.

        Raises InputError where the graph fails.
        """
        memory = self.initial_memory if memory is None else memory
        inputs = {"observation": observation[None], **dict(zip(self._states, memory, strict=True))}
        try:
            action, uncertainty, *states = self._session.run(self._outputs, inputs)
        except _RUNTIME_ERRORS as error:
            raise InputError(f"{self.path}: cannot be run: {_first_line(error)}") from error
        return Answer(action[0], uncertainty[0], tuple(states))

    def remember(self, memory: Memory, command: NDArray[np.float64] | None) -> Memory:
        """Return the memory with the command (a,) that was in force since the tick before.

        None says that this step cannot be judged: nobody commanded, or it was not one period long.
        """
        names = list(self._states)
        if BEFORE not in names:
            return memory
        index, begin = names.index(BEFORE), self.robot.observation_size
        before = memory[index].copy()
        if command is None:
            before[:] = 0.0
        else:
            before[0, begin : begin + len(command)] = command
        return (*memory[:index], before, *memory[index + 1 :])

    def golden_differences(self) -> tuple[float, float]:
        """Replay the golden vectors; return the largest differences of actions and of scores.

        Relative to the action range and to the thresholds; inf where an answer is not finite.
        """
        memory, actions, scores = self.initial_memory, [], []
        for observation in self.golden.observations:
            answer = self.run(np.array(observation, np.float32), memory)
            memory = answer.memory
            actions.append(answer.action)
            scores.append(answer.uncertainty)
        low, high = np.array(self.robot.limits, np.float64).T
        thresholds = np.array([score.threshold for score in self.gate.scores])
        return (
            _largest(actions, self.golden.actions, high - low),
            _largest(scores, self.golden.uncertainties, thresholds),
        )

    def self_check(self) -> None:
        """Replay the golden vectors. Raises InputError where they differ."""
        of_actions, of_scores = self.golden_differences()
        for differs, allowed, what in (
            (of_actions, GOLDEN_TOLERANCE, "of the action range"),
            (of_scores, SCORE_TOLERANCE, "of a score's threshold"),
        ):
            if differs > allowed:
                raise InputError(
                    f"{self.path}: golden vectors differ by {differs:.2g} {what}, allowed "
                    f"{allowed:g}: the file or the runtime is not what was exported"
                )

    def _read_metadata(self, properties: dict[str, str]) -> None:
        missing = [key for key in _KEYS if key not in properties]
        if missing:
            raise InputError(f"{self.path}: not an offrl policy file: no '{missing[0]}' in it")
        if properties["format"] != FORMAT:
            raise InputError(f"{self.path}: format '{properties['format']}', expected '{FORMAT}'")
        large = [key for key, value in properties.items() if len(value) > MAX_METADATA]
        if large:
            raise InputError(f"{self.path}: metadata '{large[0]}' is above {MAX_METADATA} bytes")
        self.robot: Robot = self._robot(properties["robot"])
        if self.robot.digest() != properties["robot_digest"]:
            raise InputError(
                f"{self.path}: the robot file in it has digest {self.robot.digest()}, "
                f"recorded {properties['robot_digest']}: the file was changed after export"
            )
        texts = TypeAdapter(dict[str, str])
        try:
            self.definitions = texts.validate_json(properties["definitions"])
            self.definition_hashes = texts.validate_json(properties["definition_hashes"])
            self.gate = GateCalibration.model_validate_json(properties["gate"])
            self.golden = Golden.model_validate_json(properties["golden"])
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise InputError(
                f"{self.path}: metadata cannot be read: {error.title}: {key}: {first['msg']}"
            ) from error
        self.checksum = properties["sha256"]
        hidden = (*_KEYS, "sha256", "ed25519")
        self.signed = "ed25519" in properties
        self.about: dict[str, str] = {k: v for k, v in properties.items() if k not in hidden}

    def _robot(self, text: str) -> Robot:
        """Read the robot file, as it was written: no aliases, which can unfold without end."""
        if len(text) > MAX_ROBOT:
            raise InputError(f"{self.path}: its robot file is above {MAX_ROBOT} characters")
        depth = deepest = 0
        try:
            for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                if isinstance(event, yaml.AliasEvent):
                    raise InputError(f"{self.path}: its robot file has aliases: not allowed")
                depth += isinstance(event, yaml.CollectionStartEvent)
                depth -= isinstance(event, yaml.CollectionEndEvent)
                deepest = max(deepest, depth)
                if deepest > _ROBOT_DEPTH:
                    raise InputError(f"{self.path}: its robot file is nested too deeply")
        except yaml.YAMLError:
            pass  # said better by whoever reads it
        return robot_from_yaml(text, f"{self.path.name}: robot")

    def _check_graph(self) -> None:
        """Refuse a graph whose shapes are not those of its robot file."""
        robot = self.robot
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        found = {put.name: put.shape for put in (*inputs, *outputs)}
        states = {put.name: put.shape for put in inputs if put.name.startswith("state")}
        step = [1, robot.observation_size + robot.action_size + 1]
        expected = {
            "observation": [1, robot.observation_size],
            "action": [1, robot.action_size],
            "uncertainty": [1, len(self.gate.scores)],
            **states,
            **({BEFORE: step} if BEFORE in states else {}),
            **{f"next_{name}": shape for name, shape in states.items()},
        }
        if found != expected:
            raise InputError(f"{self.path}: graph has {found}, its robot file says {expected}")
        other = [put.name for put in (*inputs, *outputs) if put.type != "tensor(float)"]
        if other:
            raise InputError(f"{self.path}: '{other[0]}' is not in single precision")
        fixed = all(isinstance(size, int) and size > 0 for s in states.values() for size in s)
        if not fixed or sum(map(math.prod, states.values())) > MAX_STATE:
            raise InputError(f"{self.path}: states {states}, allowed {MAX_STATE} numbers in all")
        self._states = {name: tuple(shape) for name, shape in states.items()}
        self._outputs = ["action", "uncertainty", *(f"next_{name}" for name in states)]
        self._check_golden()

    def _check_golden(self) -> None:
        count = len(self.golden.observations)
        for name, width in (
            ("observations", self.robot.observation_size),
            ("actions", self.robot.action_size),
            ("uncertainties", len(self.gate.scores)),
        ):
            rows = getattr(self.golden, name)
            if not count or len(rows) != count or any(len(row) != width for row in rows):
                raise InputError(
                    f"{self.path}: golden {name} are {len(rows)} of {sorted(set(map(len, rows)))} "
                    f"numbers, expected {count or 'some'} of {width}"
                )


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: no such policy file")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: above {MAX_BYTES // 2**20} MiB, more than a policy may have")
    return content


def _session(content: bytes) -> Any:
    """Return the runtime's session, of one thread. Raises InputError."""
    _limit_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.use_env_allocators", "1")
    folded = "optimization.constant_folding_max_output_size_in_bytes"
    options.add_session_config_entry(folded, str(MAX_BYTES))
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except (*_RUNTIME_ERRORS, ValueError) as error:
        raise InputError(f"not a usable ONNX file: {_first_line(error)}") from error


@functools.cache
def _limit_memory() -> None:
    """Bound what the runtime may take: a few bytes can ask for a tebibyte."""
    info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    as_requested = 1
    limits = onnxruntime.OrtArenaCfg(
        {"max_mem": MAX_WORKING_BYTES, "arena_extend_strategy": as_requested}
    )
    onnxruntime.create_and_register_allocator(info, limits)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _largest(
    found: list[Vector], expected: tuple[tuple[float, ...], ...], unit: NDArray[np.float64]
) -> float:
    difference = np.abs(np.array(found, np.float64) - np.array(expected)) / unit
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")
