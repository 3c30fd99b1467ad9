"""The policy file: one ONNX file with network, normalisation, gate, robot file, golden vectors."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from offrl_contract import InputError, Robot, robot_from_yaml
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors
from pydantic import ValidationError

from offrl_policy.gate import GateCalibration

FORMAT = "offrl-policy-1"
GOLDEN_TOLERANCE = 1e-4
"""Largest difference of a golden vector, relative to the action range."""
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


_SEAL = b"\x72\x4a\x0a\x06sha256\x12\x40"  # ONNX metadata_props {key: "sha256", value: 64 digits}


def seal(content: bytes) -> bytes:
    """Append the checksum of an ONNX file to it, as one more entry of its metadata."""
    return content + _SEAL + sha256(content).hexdigest().encode()


def _require_seal(content: bytes, path: Path) -> None:
    """Raise InputError unless the file ends with the checksum of all that stands before."""
    end = len(content) - len(_SEAL) - 64
    if end <= 0 or content[end : end + len(_SEAL)] != _SEAL:
        raise InputError(f"{path}: not a usable policy file: it does not end with its checksum")
    if content[end + len(_SEAL) :] != sha256(content[:end]).hexdigest().encode():
        raise InputError(f"{path}: damaged: its content does not match its checksum")


@dataclass(frozen=True)
class Golden:
    """Observations of the dataset with the actions that the network gave at export."""

    observations: NDArray[np.float32]
    """(n, o)"""
    actions: NDArray[np.float32]
    """(n, a)"""


class Policy:
    """A loaded policy file: observation in, action and uncertainty out."""

    def __init__(self, path: Path) -> None:
        """Load and check a policy file. Raises InputError with the sentence that says why not."""
        self.path = path
        if not path.is_file():
            raise InputError(f"{path}: no such policy file")
        content = path.read_bytes()
        _require_seal(content, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except (*_RUNTIME_ERRORS, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: not a usable ONNX file: {reason}") from error
        self._read_metadata(dict(self._session.get_modelmeta().custom_metadata_map))
        self._check_graph()

    def run(
        self, observation: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return action (a,) in SI units and uncertainty (k,) for an observation (o,)."""
        action, uncertainty = self._session.run(None, {"observation": observation[None]})
        return action[0], uncertainty[0]

    def golden_difference(self) -> float:
        """Replay the golden vectors; return the largest difference over the action range."""
        low, high = np.array(self.robot.limits, np.float64).T
        actions = np.array([self.run(o)[0] for o in self.golden.observations], np.float64)
        difference = np.abs(actions - self.golden.actions) / (high - low)
        return float(difference.max()) if np.isfinite(difference).all() else float("inf")

    def self_check(self) -> None:
        """Replay the golden vectors. Raises InputError where they differ."""
        difference = self.golden_difference()
        if difference > GOLDEN_TOLERANCE:
            raise InputError(
                f"{self.path}: golden vectors differ by {difference:.2g} of the action range, "
                f"allowed {GOLDEN_TOLERANCE:g}: the file or the runtime is not what was exported"
            )

    def _read_metadata(self, properties: dict[str, str]) -> None:
        missing = [key for key in _KEYS if key not in properties]
        if missing:
            raise InputError(f"{self.path}: not an offrl policy file: no '{missing[0]}' in it")
        if properties["format"] != FORMAT:
            raise InputError(f"{self.path}: format '{properties['format']}', expected '{FORMAT}'")
        self.robot: Robot = robot_from_yaml(properties["robot"], f"{self.path.name}: robot")
        if self.robot.digest() != properties["robot_digest"]:
            raise InputError(
                f"{self.path}: the robot file in it has digest {self.robot.digest()}, "
                f"recorded {properties['robot_digest']}: the file was changed after export"
            )
        try:
            self.definitions: dict[str, str] = json.loads(properties["definitions"])
            self.definition_hashes: dict[str, str] = json.loads(properties["definition_hashes"])
            self.gate = GateCalibration.model_validate_json(properties["gate"])
            golden = json.loads(properties["golden"])
            self.golden = Golden(
                np.array(golden["observations"], np.float32),
                np.array(golden["actions"], np.float32),
            )
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path}: metadata cannot be read: {error}") from error
        hidden = (*_KEYS, "sha256")
        self.about: dict[str, str] = {k: v for k, v in properties.items() if k not in hidden}

    def _check_graph(self) -> None:
        """Refuse a graph whose shapes are not those of its robot file."""
        robot = self.robot
        found = {put.name: put.shape for put in self._session.get_inputs()}
        found |= {put.name: put.shape for put in self._session.get_outputs()}
        expected = {
            "observation": [1, robot.observation_size],
            "action": [1, robot.action_size],
            "uncertainty": [1, len(self.gate.scores)],
        }
        if found != expected:
            raise InputError(f"{self.path}: graph has {found}, its robot file says {expected}")
        for name, width in (
            ("observations", robot.observation_size),
            ("actions", robot.action_size),
        ):
            golden = getattr(self.golden, name)
            if golden.ndim != 2 or golden.shape[1] != width or not len(golden):
                raise InputError(f"{self.path}: golden {name} have shape {golden.shape}")
