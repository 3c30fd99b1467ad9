"""Every column of the batch path, on every message of every real bag, against rosbags."""

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from offrl_contract import InputError
from offrl_contract.field_plan import FieldPlan, UnplannableError
from offrl_data.bags import Bag, Topic
from offrl_data.message_definitions import MessageDefinitions
from offrl_data.storage.base import Batch
from rosbags.interfaces import Nodetype
from rosbags.typesys.store import Typestore

# Messages of each bag, all topics, and topics whose type nobody defines.
BAGS = {
    "ackermann_gps": (5348, set()),
    "autoware_ego_trajectory": (2130, set()),
    "biped_imu_joints": (6578, set()),
    "crazyflie_roll": (6446, set()),
    "husky_localization.bag": (16806, set()),
    "neato_drive_square": (2091, set()),
    "neato_finite_state": (3127, set()),
    "neato_obstacle_avoider": (1545, set()),
    "neato_person_follower": (1840, set()),
    "neato_sim_drive_square": (5670, set()),
    "neato_sim_person_follower": (6920, set()),
    "neato_teleop": (2862, set()),
    "renamed_file": (3878, set()),
    "replay_fixtures/cmd_vel_only.mcap": (51, set()),
    "replay_fixtures/cmd_vel_only_2.mcap": (100, set()),
    "service_events": (10, {f"/test_service{n}/_service_event" for n in (1, 2)}),
    "talker": (20, set()),
    "truncated.bag": (3, set()),
    "truncated_mcap": (14, set()),
    "turtlesim.bag": (8647, set()),
    "turtlesim_bz2.bag": (8647, set()),
    "turtlesim_lz4.bag": (8647, set()),
    "unindexed.bag": (14, set()),
    "unsorted_chunks.bag": (3, set()),
}

# Topics whose embedded definition is not that of the messages: nothing is read by it.
WRONG = {"talker": {"/rosout"}}


def numbers(store: Typestore, type_name: str, prefix: str = "") -> Iterator[str]:
    """Every field that is a number or an array of numbers, outside of arrays of structures."""
    for name, (tag, what) in store.fielddefs[type_name][1]:
        if tag == Nodetype.NAME:
            yield from numbers(store, what, f"{prefix}{name}.")
        elif tag == Nodetype.BASE:
            if what[0] != "string":
                yield prefix + name
        elif what[0][0] == Nodetype.BASE and what[0][1][0] != "string":
            yield prefix + name


def compare(topic: Topic, store: Typestore, batch: Batch) -> int:
    """Compare all columns of a batch; return the messages that took the batch path."""
    decode = store.deserialize_ros1 if topic.wire == "ros1" else store.deserialize_cdr
    paths = list(numbers(store, topic.type_name))
    getters = {path: attrgetter(path) for path in paths}
    plan = FieldPlan(topic.type_name, paths, (), store, topic.wire == "cdr")
    left, done = np.arange(len(batch.starts)), 0
    while len(left):
        first = int(left[0])
        try:
            layout = plan.layout(np.frombuffer(batch.message(first), np.uint8))
        except UnplannableError:  # the general path's, which is rosbags itself
            left = left[1:]
            continue
        same = left[batch.sizes[left] == batch.sizes[first]]
        rows = same[layout.matches(batch.buffer, batch.starts[same])]
        columns = layout.columns(batch.buffer, batch.starts[rows])
        assert set(columns) == set(paths)
        for index, row in enumerate(rows.tolist()):
            message = decode(batch.message(row), topic.type_name)
            for path, column in columns.items():
                expected = np.asarray(getters[path](message), np.float64).reshape(-1)
                assert np.array_equal(column[index], expected, equal_nan=True), (path, row)
        done += len(rows)
        left = np.setdiff1d(left, rows)
    return done


@pytest.mark.parametrize("name", BAGS)
def test_every_column_equals_rosbags(name: str, bags: Path, msgs: Path) -> None:
    count, undefined = 0, set()
    distro = "foxy" if name == "neato_sim_person_follower" else "humble"
    definitions = MessageDefinitions(distro, msgs)
    stores: dict[str, Typestore | None] = {}
    with Bag(bags / name) as bag:
        for channel, block in bag.blocks(bag.topics):
            topic = bag.topics[channel.topic]
            count += len(block.received)
            if topic.name not in stores:
                try:
                    stores[topic.name] = definitions.of(topic, name)[0]
                except InputError:
                    stores[topic.name] = None
                    undefined.add(topic.name)
            store = stores[topic.name]
            if store is not None:
                batch = block.pick(np.arange(len(block.received)))
                share = 0.0 if topic.name in WRONG.get(name, ()) else 0.99
                assert compare(topic, store, batch) >= share * len(block.received)
    assert (count, undefined) == BAGS[name]
