from collections import Counter

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from offrl_contract import InputError, load_robot
from offrl_contract.definitions import distro_definitions
from offrl_data.conversion import convert_bags
from offrl_data.dataset import load_dataset
from offrl_sim.commands import record
from offrl_sim.diffdrive.behaviour import DiffDriveBehaviour
from offrl_sim.diffdrive.simulation import DiffDrive
from offrl_sim.env import TaskEnv
from offrl_sim.evaluate import behaviour_rng, rollout_behaviour
from offrl_sim.record import record_bags
from rosbags.rosbag2 import Reader

EPISODES, SEED = 5, 100


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    out = tmp_path_factory.mktemp("recorded") / "bags"
    recorded = record_bags(
        TaskEnv("DiffDriveNav"), out, EPISODES, SEED, bags=2, advance=lambda: None
    )
    assert sum(bag.episodes for bag in recorded) == EPISODES
    return [bag.path for bag in recorded]


def test_rosbags_reads_the_bag(bags):
    store = distro_definitions()
    with Reader(bags[0]) as reader:
        assert {c.topic: c.msgtype for c in reader.connections} == DiffDrive.types
        for connection in reader.connections:
            assert connection.digest == store.hash_rihs01(connection.msgtype)
            assert connection.msgdef.data
        counts = Counter()
        stamps = []
        for connection, stamp, raw in reader.messages():
            message = store.deserialize_cdr(raw, connection.msgtype)
            counts[connection.topic] += 1
            stamps.append(stamp)
            if connection.topic == "/scan":
                assert len(message.ranges) == 180
        assert stamps == sorted(stamps)
        assert sum(counts.values()) == reader.message_count
        assert counts["/odom"] > 2 * counts["/scan"] > 2 * counts["/cmd_vel"] > 0


def test_mcap_reads_the_bag_with_its_own_definitions(bags):
    (file,) = bags[1].glob("*.mcap")
    with file.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        schemas = {schema.name: schema for schema in reader.get_summary().schemas.values()}
        assert set(schemas) == set(DiffDrive.types.values())
        assert {schema.encoding for schema in schemas.values()} == {"ros2msg"}
        seen = {}
        for _, channel, message, decoded in reader.iter_decoded_messages():
            assert channel.message_encoding == "cdr"
            seen.setdefault(channel.topic, []).append((message.log_time, decoded))
    goal = seen["/goal"][0][1]
    assert goal.header.frame_id == "base_link"
    odometry = seen["/odom"][0][1]
    assert (odometry.header.frame_id, odometry.child_frame_id) == ("odom", "base_link")
    scan = seen["/scan"][0][1]
    assert scan.angle_min + 179 * scan.angle_increment == pytest.approx(scan.angle_max, abs=1e-5)
    assert all(-0.2 <= twist.linear.x <= 0.8 for _, twist in seen["/cmd_vel"])
    commands = np.array([time for time, _ in seen["/cmd_vel"]])
    inside = np.diff(commands)[np.diff(commands) < 10**9] / 1e9
    np.testing.assert_allclose(inside, 0.1, atol=0.005)


def test_converted_bag_is_what_the_simulator_said(bags, tmp_path):
    """Observations, actions, rewards and ends out of the bag equal the environment's own."""
    robot = load_robot("diffdrive")
    file = tmp_path / "drive.h5"
    convert_bags(bags, robot, file)
    dataset = load_dataset(file)
    env = TaskEnv("DiffDriveNav")
    assert len(dataset.lengths) == EPISODES
    behaviour = DiffDriveBehaviour(robot)
    for index in range(EPISODES):
        episode = dataset.episode(index)
        behaviour.begin(behaviour_rng(SEED + index))
        observation, _ = env.reset(seed=SEED + index)
        terminal = False
        for row in range(len(episode.rewards)):
            np.testing.assert_array_equal(episode.observations[row], observation)
            observation, reward, terminal, _, info = env.step(behaviour(observation))
            np.testing.assert_array_equal(episode.actions[row], info["command"])
            assert episode.rewards[row] == pytest.approx(reward, abs=1e-6)
        np.testing.assert_array_equal(episode.observations[-1], observation)
        assert episode.terminal == terminal
    env.close()


def test_behaviour_is_of_mixed_quality():
    env = TaskEnv("DiffDriveNav")
    results = rollout_behaviour(env, 40, 1000)
    kinds = []
    behaviour = DiffDriveBehaviour(env.robot)
    for result in results:
        behaviour.begin(behaviour_rng(result.seed))
        kinds.append(behaviour.skill.kind)
        assert result.path.shape == (result.length + 1, 2)
        assert not (result.success and result.collided)
    env.close()
    assert set(kinds) == {"careful", "hasty", "slow", "naive"}
    assert 0.6 <= np.mean([result.success for result in results]) <= 0.9
    assert 0.05 <= np.mean([result.collided for result in results]) <= 0.4
    returns = np.array([result.episode_return for result in results])
    mean = {kind: returns[np.array(kinds) == kind].mean() for kind in set(kinds)}
    assert mean["naive"] < returns.mean() - 3.0
    assert mean["careful"] > returns.mean() + 1.0


def test_command_line_records_and_reports(tmp_path, capsys):
    out = tmp_path / "new" / "bags"
    record(["--out", str(out), "--episodes", "2", "--bags", "1", "--seed", "3"])
    assert "2 episodes" in capsys.readouterr().out
    assert [entry.name for entry in out.iterdir()] == ["drive_000"]
    assert [entry.name for entry in out.parent.iterdir()] == ["bags"]
    with pytest.raises(InputError, match="exists already"):
        record(["--out", str(out), "--episodes", "2", "--bags", "1"])


def test_more_bags_than_episodes_is_refused(tmp_path):
    with pytest.raises(InputError, match="--bags 3"):
        record_bags(TaskEnv("DiffDriveNav"), tmp_path / "bags", 2, 0, 3, lambda: None)


def test_an_interrupted_recording_leaves_nothing(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_bags(TaskEnv("DiffDriveNav"), tmp_path / "bags", 2, 0, 1, stop)
    assert list(tmp_path.iterdir()) == []
