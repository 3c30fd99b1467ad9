"""From a training run to `policy.onnx`: graph, parity, golden vectors, gate, one atomic write."""

import json
import math
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from offrl_contract import InputError, Robot, __version__
from offrl_contract.definitions import (
    DEFAULT_DISTRO,
    add_folder,
    definition_hashes,
    definition_texts,
    distro_definitions,
    missing_types,
)
from offrl_contract.robot_file import require_same
from offrl_data.columns import Column, pieces
from offrl_data.dataset import AnyDataset
from offrl_policy.policy_file import BEFORE, FORMAT, GOLDEN_TOLERANCE, Policy
from offrl_policy.signature import private_key, seal, sign
from offrl_training.run import TrainedRun
from offrl_training.sampler import split_episodes
from offrl_training.transitions import spread_rows

from offrl_export.calibration import calibrate
from offrl_export.dynamics import MOST_TRANSITIONS, Dynamics, fit, judged_terms
from offrl_export.graph import MAX_PROTOTYPES, SCORES, PolicyGraph, write_graph

GOLDEN_VECTORS = 16
REFERENCE_SHARE = 5
"""Every so manieth training episode gives the scale of the scores, and no prototypes."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ExportReport:
    """What an export found."""

    path: Path
    parity: float
    """Largest difference between ONNX and torch over the dataset, relative to the action range."""
    observations: int
    """How many observations the parity was checked on."""
    alpha: float
    threshold_episodes: int
    false_alarms: str


class Normal(NamedTuple):
    """Episodes from which the gate learns what is normal."""

    dataset: AnyDataset
    prototypes: NDArray[np.int64]
    """Give the prototypes, and the models of a step."""
    reference: NDArray[np.int64]
    """Give the scale of the scores."""
    held_out: NDArray[np.int64]
    """Give the thresholds."""

    @classmethod
    def of(cls, dataset: AnyDataset, known: NDArray[np.int64], held_out: NDArray[np.int64]) -> Self:
        """Part the episodes that are not held out."""
        if len(known) < 2:
            return cls(dataset, known, known, held_out)
        reference = np.arange(len(known)) % REFERENCE_SHARE == 0
        return cls(dataset, known[~reference], known[reference], held_out)


def normal(run: TrainedRun, dataset: AnyDataset, gate_data: AnyDataset | None) -> Normal:
    """Return the run's own episodes, or those of another dataset, parted as training would.

    Raises InputError where that is of another robot.
    """
    if gate_data is None:
        return Normal.of(dataset, run.train_episodes, run.held_out_episodes)
    require_same(run.robot, gate_data.robot, "the run", "--gate-data")
    count, training = len(gate_data.lengths), run.training
    return Normal.of(gate_data, *split_episodes(count, training.held_out, training.seed))


def export_policy(
    run: TrainedRun,
    dataset: AnyDataset,
    gate_data: AnyDataset | None,
    out: Path,
    alpha: float,
    jumps: Collection[str],
    msgs: Path | None,
    sign_by: Path | None,
    say: Callable[[str], None],
) -> ExportReport:
    """Write the policy file of a run. Raises InputError; then nothing is left under `out`.

    The gate learns what is normal from `gate_data` where it is given, else from `dataset`, the
    run's. `jumps` are observation terms whose steps it does not judge, `msgs` is a folder with the
    .msg files of types that the dataset has no definition of, `sign_by` a private key.
    """
    key = None if sign_by is None else private_key(sign_by)  # refused before anything is computed
    require_same(dataset.robot, run.robot, "the dataset", "the run")
    if dataset.digest != run.dataset_digest:
        raise InputError(
            f"the run was trained on another dataset ({run.dataset_digest}) than this one "
            f"({dataset.digest})"
        )
    known = normal(run, dataset, gate_data)
    model = Dynamics(run, judged_terms(run.robot, jumps))
    definitions = _definitions(run.robot, dataset, msgs, say)
    beside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        report = _write(run, dataset, known, model, definitions, beside, alpha, key, say)
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(beside, out)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error}") from error
    finally:
        beside.unlink(missing_ok=True)
    gate = Policy(out).gate
    low, high = gate.false_alarms.interval
    return ExportReport(
        path=out,
        parity=report,
        observations=len(dataset.observations),
        alpha=alpha,
        threshold_episodes=gate.episodes,
        false_alarms=f"{gate.false_alarms.alarms} in {gate.false_alarms.episodes} "
        f"({low:.3f} to {high:.3f})",
    )


def _definitions(
    robot: Robot, dataset: AnyDataset, msgs: Path | None, say: Callable[[str], None]
) -> dict[str, str]:
    """Return the properties that hold the text and the hash of each message type.

    A dataset that is not from bags may lack them. Raises InputError where nobody has them.
    """
    texts, hashes = (dataset.metadata.get(key, {}) for key in ("definitions", "definition_hashes"))
    lacking = sorted(set(robot.topics(signals=False).values()) - texts.keys())
    if lacking:
        store = distro_definitions()
        if msgs is not None:
            add_folder(store, msgs)
        unknown = sorted(set().union(*(missing_types(store, name) for name in lacking)))
        if unknown:
            raise InputError(
                f"the dataset has no ROS 2 definition of {', '.join(unknown)}. "
                "Give one by --msgs DIR with its .msg file."
            )
        say(
            f"{', '.join(lacking)}: defined as in ROS 2 {DEFAULT_DISTRO}{' or --msgs' * bool(msgs)}"
        )
        texts = texts | definition_texts(store, lacking)
        hashes = hashes | definition_hashes(store, lacking)
    return {"definitions": json.dumps(texts), "definition_hashes": json.dumps(hashes)}


def _write(
    run: TrainedRun,
    dataset: AnyDataset,
    known: Normal,
    model: Dynamics,
    definitions: dict[str, str],
    path: Path,
    alpha: float,
    key: Any,
    say: Callable[[str], None],
) -> float:
    """Write a checked policy file; return the parity."""
    rows = spread_rows(known.dataset, known.prototypes, MAX_PROTOTYPES)
    states = _at(known.dataset.observations, rows)
    _fit(model, known.dataset, known.prototypes)
    graph = PolicyGraph(run, states, model)
    onnx_model = write_graph(graph, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parity = check_parity(graph, session, dataset.observations, run.robot.limits)

    def scores(episodes: NDArray[np.int64]) -> list[Array]:
        return [_scores(session, *_episode(known.dataset, int(e))) for e in episodes]

    gate = calibrate(
        scores(known.reference), scores(known.held_out), SCORES, alpha, run.robot.rate, say
    )
    golden = _at(dataset.observations, _golden_rows(len(dataset)))
    actions, uncertainties = _unrolled(graph, golden)
    properties = {
        "format": FORMAT,
        "robot": run.robot.to_yaml(),
        "robot_digest": run.robot.digest(),
        **definitions,
        "gate": gate.model_dump_json(),
        "golden": json.dumps(
            {
                "observations": golden.tolist(),
                "actions": actions.tolist(),
                "uncertainties": uncertainties.tolist(),
            }
        ),
        "algorithm": run.algorithm_name,
        "step": str(run.step),
        "dataset_digest": dataset.digest,
        **({"gate_dataset_digest": known.dataset.digest} if known.dataset is not dataset else {}),
        "parity": f"{parity:.3g}",
        "versions": f"offrl {__version__}, torch {torch.__version__}, onnx {onnx.__version__}",
    }
    onnx.helper.set_model_props(onnx_model, properties)
    content = onnx_model.SerializeToString()
    path.write_bytes(seal(content if key is None else sign(content, key)))
    Policy(path).self_check()
    return parity


def _golden_rows(count: int) -> NDArray[np.int64]:
    """Return rows in pairs, one after another, that the models of a step are checked on as well."""
    firsts = np.linspace(0, max(count - 2, 0), GOLDEN_VECTORS // 2).round().astype(np.int64)
    return np.minimum(np.stack([firsts, firsts + 1], axis=1).ravel(), count - 1)


def check_parity(
    graph: PolicyGraph,
    session: onnxruntime.InferenceSession,
    observations: Column,
    limits: tuple[tuple[float, float], ...],
) -> float:
    """Return the largest action difference over the range. Raises InputError above tolerance."""
    low, high = np.array(limits, np.float64).T
    before = np.zeros((1, sum(graph.sizes) + 1), np.float32)
    worst = 0.0
    with torch.no_grad():
        for batch in pieces(observations):
            expected = graph.act(torch.from_numpy(batch)).numpy()
            found = np.array(
                [
                    session.run(["action"], {"observation": o[None], BEFORE: before})[0][0]
                    for o in batch
                ]
            )
            difference = np.abs(found - expected.astype(np.float64)) / (high - low)
            worst = max(worst, float(difference.max()))
    if not worst <= GOLDEN_TOLERANCE:
        raise InputError(
            f"parity: ONNX and torch differ by {worst:.3g} of the action range, "
            f"allowed {GOLDEN_TOLERANCE:g}: no file is written"
        )
    return worst


def _at(column: Column, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return some rows (n, ...)."""
    return np.concatenate([column[row : row + 1] for row in rows.tolist()])


def _episode(dataset: AnyDataset, episode: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return observations (L + 1, o) of an episode, the final one included, and actions (L, a)."""
    start, length = dataset.starts[episode], dataset.lengths[episode]
    last = dataset.final_observations[episode : episode + 1]
    seen = np.concatenate([dataset.observations[start : start + length], last])
    return seen, dataset.actions[start : start + length]


def _fit(model: Dynamics, dataset: AnyDataset, episodes: NDArray[np.int64]) -> None:
    """Train a model of one step on episodes, as many of them as are needed."""
    every = math.ceil(int(dataset.lengths[episodes].sum()) / MOST_TRANSITIONS)
    fit(model, [_episode(dataset, int(each)) for each in episodes[:: max(every, 1)]])


def _scores(
    session: onnxruntime.InferenceSession,
    observations: NDArray[np.float32],
    actions: NDArray[np.float32],
) -> Array:
    """Return the scores (T, k) of an episode as the robot computes them, with who drove then."""
    one = np.ones((1, 1), np.float32)
    before = np.zeros((1, observations.shape[1] + actions.shape[1] + 1), np.float32)
    rows = []
    for tick, seen in enumerate(observations):
        rows.append(session.run(["uncertainty"], {"observation": seen[None], BEFORE: before})[0][0])
        if tick < len(actions):
            before = np.concatenate([seen[None], actions[tick : tick + 1], one], axis=1)
    return np.array(rows, np.float64)


@torch.no_grad()
def _unrolled(
    graph: PolicyGraph, observations: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return actions (n, a) and uncertainties (n, k) at observations, one after another."""
    before = torch.zeros(1, sum(graph.sizes) + 1)
    answers = []
    for seen in torch.from_numpy(observations):
        *answer, before = graph(seen[None], before)
        answers.append(answer)
    actions, uncertainties = (torch.cat(each).numpy() for each in zip(*answers, strict=True))
    return actions, uncertainties
