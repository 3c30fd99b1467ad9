"""Going on with newly recorded bags, without a simulator: the policy's own drives on the robot.

The node marks in `~/gate` when its gate drove instead of the policy. What it did then is in the log
like any command, and can be learned from or cut.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot
from offrl_contract.reader import TermReader
from offrl_contract.robot import Signal
from offrl_contract.robot_file import require_same
from offrl_data.bags import Bag, find_bags
from offrl_data.conversion import convert_bags
from offrl_data.dataset import Dataset, Episode, load_dataset
from offrl_data.dataset_writer import DatasetWriter
from offrl_data.decoder import Decoder
from offrl_data.message_definitions import MessageDefinitions

from offrl_training.finetuning.config import FinetuneConfig
from offrl_training.finetuning.methods import dataset_share
from offrl_training.finetuning.replay import MixedSampler
from offrl_training.sampler import Sampler, check_actions
from offrl_training.trainer import Trainer
from offrl_training.transitions import spread_rows

Interventions = Literal["keep", "cut"]
_GATE = "diagnostic_msgs/msg/DiagnosticStatus"
_DRIVES = 2  # DiagnosticStatus.ERROR: the gate's FALLBACK and STOP


def read_new(
    sources: Sequence[Path], robot: Robot, out: Path, interventions: Interventions, resume: bool
) -> Dataset:
    """Convert bags into `out`, unless a resumed run has it already; or load one dataset file.

    Raises InputError where they are not of this robot, or tell nothing of interventions to cut.
    """
    if len(sources) == 1 and sources[0].suffix == ".h5":
        if interventions == "cut":
            raise InputError(f"--interventions cut: {sources[0]} has no gate topic; give the bags")
        dataset = load_dataset(sources[0])
        require_same(robot, dataset.robot, "the run", str(sources[0]))
    else:
        if not (resume and out.exists()):
            _convert(find_bags(list(sources)), robot, out, interventions)
        dataset = load_dataset(out)
    check_actions(dataset)
    return dataset


def mix(trainer: Trainer, new: Dataset, config: FinetuneConfig) -> MixedSampler:
    """Return batches of a trainer's dataset and of new episodes."""
    rows = spread_rows(new, np.arange(len(new.lengths)), len(new))
    packed = trainer.transitions.of(new).take(rows)
    online = Sampler(packed, new.robot.observation_size, trainer.generator)
    return MixedSampler(trainer.sampler, online, dataset_share(config))


def _convert(bags: list[Path], robot: Robot, out: Path, interventions: Interventions) -> None:
    """Convert bags; `out` appears only when it is whole, cut where that is asked."""
    if interventions == "keep":
        convert_bags(bags, robot, out)
        return
    gates = [_gate(bag) for bag in bags]
    whole = out.with_name(f".{out.stem}.whole.h5")
    try:
        counts = [report.episodes for report in convert_bags(bags, robot, whole)]
        dataset = load_dataset(whole)
    finally:
        whole.unlink(missing_ok=True)
    # By their order: bags of two days may have one name.
    bag_of = np.repeat(np.arange(len(bags)), counts)
    parts = [
        part
        for index, bag in enumerate(bag_of)
        for part in cut(dataset.episode(index), robot.period, gates[bag])
    ]
    if not parts:
        raise InputError("--interventions cut: the gate drove all the time; nothing is left")
    with DatasetWriter(out, robot) as writer:
        for part in parts:
            writer.append(part)
        writer.finish(dict(dataset.metadata))


def cut(
    episode: Episode, period: int, gate: tuple[NDArray[np.int64], NDArray[np.bool_]]
) -> list[Episode]:
    """Return the parts of an episode, ticks of a period [ns], in which the gate never drove.

    `gate` are the times (n,) [ns] of its messages, in order, and whether it drove from there on.
    """
    times, drives = gate
    length = len(episode.rewards)
    begins = episode.stamp + period * np.arange(length)
    first = np.searchsorted(times, begins, "right") - 1  # the message in force when a tick begins
    last = np.searchsorted(times, begins + period, "left") - 1
    before = np.append(0, np.cumsum(drives))
    intervened = before[last + 1] > before[np.maximum(first, 0)]  # (L,)
    edges = np.flatnonzero(np.diff(np.concatenate([[True], intervened, [True]])))
    return [
        replace(
            episode,
            observations=episode.observations[begin : end + 1],
            actions=episode.actions[begin:end],
            rewards=episode.rewards[begin:end],
            terminal=episode.terminal and end == length,
            stamp=int(begins[begin]),
            path=None if episode.path is None else episode.path[begin:end],
        )
        for begin, end in edges.reshape(-1, 2).tolist()
    ]


def _gate(path: Path) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Read when a bag's gate drove. Raises InputError where it has no gate topic, or several."""
    with Bag(path) as bag:
        topics = [each for each in bag.topics.values() if each.type_name == _GATE]
        names = [each.name for each in topics if each.name.endswith("/gate")]
        if len(names) != 1:
            raise InputError(
                f"--interventions cut: {path} has {len(names)} topics */gate of the policy node "
                f"({', '.join(names) or _GATE}); record one, or use --interventions keep"
            )
        topic = bag.topic(names[0], _GATE)
        store, _ = MessageDefinitions().of(topic, bag.name)
        signal = Signal(
            name="gate", topic=topic.name, type=_GATE, field=("level",), clock="receive"
        )
        decoder = Decoder(topic, {"gate": TermReader(signal, store)}, store)
        received, levels = [np.zeros(0, np.int64)], [np.zeros(0)]
        for _, block in bag.blocks([topic.name]):
            batch = block.pick(np.arange(len(block.received)))
            received.append(block.received)
            levels.append(decoder.decode(batch)[0]["gate"][:, 0])
    times, drives = np.concatenate(received), np.concatenate(levels) >= _DRIVES
    order = np.argsort(times, kind="stable")
    return times[order], drives[order]
