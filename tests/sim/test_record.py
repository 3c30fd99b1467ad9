from collections import Counter

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from offrl_contract import InputError, cli, load_robot
from offrl_contract.definitions import distro_definitions
from offrl_data.conversion import convert_bags
from offrl_data.dataset import load_dataset
from offrl_sim.commands import record
from offrl_sim.diffdrive.behaviour import DiffDriveBehaviour
from offrl_sim.diffdrive.simulation import DiffDrive
from offrl_sim.env import TaskEnv
from offrl_sim.evaluate import behaviour_rng, rollout_behaviour
from offrl_sim.messages import definitions
from offrl_sim.racecar.simulation import Racecar
from offrl_sim.record import CARRIED_AFTER, STOPPED, record_bags
from offrl_sim.tasks import TASKS
from rosbags.rosbag2 import Reader

EPISODES, SEED = 5, 100
CAR_SEEDS = range(315, 319)


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


def assert_bags_say_what_the_simulator_said(task, bags, seeds, file, profile=None):
    """Observations, actions, rewards and ends out of the bag equal the environment's own.

    Yields the episodes that neither the task nor the clock ended: their seed and length.
    """
    env = TaskEnv(task, profile=profile)
    convert_bags(bags, env.robot, file)
    dataset = load_dataset(file)
    assert len(dataset.lengths) == len(seeds)
    behaviour = env.task.behaviour(env.robot)
    for index, seed in enumerate(seeds):
        episode = dataset.episode(index)
        behaviour.begin(behaviour_rng(seed))
        observation, _ = env.reset(seed=seed)
        terminal = False
        for row in range(len(episode.rewards)):
            np.testing.assert_array_equal(episode.observations[row], observation)
            observation, reward, terminal, timeout, info = env.step(behaviour(observation))
            np.testing.assert_array_equal(episode.actions[row], info["command"])
            assert episode.rewards[row] == pytest.approx(reward, abs=1e-6)
        np.testing.assert_array_equal(episode.observations[-1], observation)
        assert episode.terminal == terminal
        if not (terminal or timeout):
            yield seed, len(episode.rewards)
    env.close()


def test_converted_bag_is_what_the_simulator_said(bags, tmp_path):
    seeds = range(SEED, SEED + EPISODES)
    file = tmp_path / "drive.h5"
    assert not list(assert_bags_say_what_the_simulator_said("DiffDriveNav", bags, seeds, file))


@pytest.fixture(scope="module")
def car_bag(tmp_path_factory):
    """Four drives: one is stopped by hand, two end at a wall."""
    out = tmp_path_factory.mktemp("car") / "bags"
    env = TaskEnv("RacecarTrack")
    (recorded,) = record_bags(env, out, len(CAR_SEEDS), CAR_SEEDS[0], 1, lambda: None)
    env.close()
    assert recorded.successes < recorded.episodes
    return recorded.path


def test_converted_car_bag_is_what_the_simulator_said(car_bag, tmp_path):
    file = tmp_path / "car.h5"
    cut = list(assert_bags_say_what_the_simulator_said("RacecarTrack", [car_bag], CAR_SEEDS, file))
    stops = {
        seed: np.random.default_rng([seed, 3]).uniform(0.0, 1.0, 2)[0] < STOPPED
        for seed in CAR_SEEDS
    }
    assert [seed for seed, _ in cut] == [seed for seed, stopped in stops.items() if stopped]
    dataset = load_dataset(file)
    assert dataset.terminals.sum() == 2


def test_car_bag_is_like_that_of_a_real_robot(car_bag):
    """Rates, jitter, losses, pauses, and the car left standing after a stop by hand."""
    store = definitions()
    stamps = {}
    running = []
    speed = []
    with Reader(car_bag) as reader:
        assert set(Racecar.types) - {c.topic for c in reader.connections} == {"/scan"}
        for connection, stamp, raw in reader.messages():
            message = store.deserialize_cdr(raw, connection.msgtype)
            header = getattr(message, "header", None)
            measured = header.stamp.sec * 10**9 + header.stamp.nanosec if header else 0
            stamps.setdefault(connection.topic, []).append((stamp, measured))
            if connection.topic == "/running":
                running.append((stamp, message.data))
            if connection.topic == "/odom":
                speed.append((stamp, message.twist.twist.linear.x))
    times = {topic: np.array(rows) for topic, rows in stamps.items()}
    for topic, rate in {"/odom": 50, "/imu": 100, "/joint_states": 50}.items():
        received, measured = times[topic].T
        delay = (received - measured) / 1e6
        assert 2.0 <= delay.min() < 2.2
        assert 4.8 < delay.max() <= 5.0
        steps = np.diff(measured)
        inside = steps[steps < 10**9]
        assert np.median(inside) / 1e9 == pytest.approx(1.0 / rate, abs=5e-3)
        lost = np.maximum(np.round(inside / 1e9 * rate) - 1, 0).sum() / len(measured)
        assert 0.003 < lost < 0.03
    commands = np.diff(times["/drive"][:, 0])
    np.testing.assert_allclose(commands[commands < 10**9] / 1e9, 0.05, atol=0.005)
    everything = np.sort(np.concatenate([rows[:, 0] for rows in times.values()]))
    assert (np.diff(everything) > 1.4 * 10**9).sum() == len(CAR_SEEDS) - 1
    assert [value for _, value in running] == [True, False] * len(CAR_SEEDS)
    begun, ended = (
        np.array([stamp for stamp, value in running if value is v]) for v in (True, False)
    )
    after = everything[np.searchsorted(everything, np.append(begun[1:], everything[-1] + 1)) - 1]
    longest = int((after - ended).argmax())
    assert (after - ended)[longest] / 1e9 == pytest.approx(CARRIED_AFTER, abs=0.1)
    standing = [v for stamp, v in speed if after[longest] - 10**8 < stamp <= after[longest]]
    assert np.abs(standing).max() < 0.15


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


def test_command_line_takes_task_and_profile(tmp_path, capsys):
    profile = tmp_path / "shift.yaml"
    profile.write_text("action_latency: 0.05\n")
    words = ["--task", "RacecarTrack", "--seed", "317", "--episodes", "1", "--bags", "1"]
    record([*words, "--out", str(tmp_path / "bags"), "--profile", str(profile)])
    assert "1 episodes (0 succeeded" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"no task 'Racecar'. Did you mean 'RacecarTrack'\?"):
        record(["--task", "Racecar", "--out", str(tmp_path / "other")])


def test_more_bags_than_episodes_is_refused(tmp_path):
    with pytest.raises(InputError, match="--bags 3"):
        record_bags(TaskEnv("DiffDriveNav"), tmp_path / "bags", 2, 0, 3, lambda: None)
    with pytest.raises(InputError, match="--episodes -3"):
        record_bags(TaskEnv("DiffDriveNav"), tmp_path / "bags", -3, 0, 4, lambda: None)


def test_any_seed_is_recorded_or_refused(tmp_path):
    assert (
        cli.run(["record", "--out", str(tmp_path / "no"), "--seed", "-1", "--episodes", "4"]) == 2
    )
    assert list(tmp_path.iterdir()) == []
    few = ["--episodes", "1", "--bags", "1"]
    assert cli.run(["record", "--out", str(tmp_path / "bags"), "--seed", str(10**9), *few]) == 0


@pytest.mark.parametrize(
    ("task", "edits", "sentence"),
    [
        ("DiffDriveNav", {"name: scan": "name: lidar", "next_scan": "next_lidar"}, "n 'scan', by"),
        ("DiffDriveNav", {"bins: 36": "bins: 7"}, "scan: .* values: 1, 2, 3, 4, 5, 6, 9"),
        ("DiffDriveNav", {"name: goal": "history: 2\n  name: goal"}, "goal: .* without history"),
        ("RacecarTrack", {"name: curvature": "name: bends"}, "n 'curvature', by"),
        ("PandaReach", {"name: goal": "name: aim", "next_goal": "next_aim"}, "n 'goal', by"),
    ],
)
def test_a_robot_file_without_what_the_driver_looks_at_is_refused(tmp_path, task, edits, sentence):
    text = load_robot(TASKS[task].robot).to_yaml()
    for before, after in edits.items():
        assert before in text
        text = text.replace(before, after)
    file = tmp_path / "robot.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=sentence):
        record(["--task", task, "--robot", str(file), "--out", str(tmp_path / "bags")])


@pytest.mark.parametrize("name", ["n" * 250, "n" * 300, "file/bags"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, capsys, name):
    (tmp_path / "file").touch()
    words = ["record", "--out", str(tmp_path / name), "--episodes", "1", "--bags", "1"]
    assert cli.run(words) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_an_interrupted_recording_leaves_nothing(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_bags(TaskEnv("DiffDriveNav"), tmp_path / "bags", 2, 0, 1, stop)
    assert list(tmp_path.iterdir()) == []
