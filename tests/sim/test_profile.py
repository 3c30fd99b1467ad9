from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from offrl_contract import InputError, load_robot, robot_from_yaml
from offrl_sim.env import TaskEnv
from offrl_sim.physics import STEPS_PER_SECOND
from offrl_sim.profile import SimProfile, load_profile
from offrl_sim.record import record_bags
from offrl_sim.tasks import TASKS
from readme_tables import options

from .test_racecar import LIDAR
from .test_record import assert_bags_say_what_the_simulator_said

NOMINAL = SimProfile()
COMMANDS = {"DiffDriveNav": [0.4, 0.0], "RacecarTrack": [0.0, 1.5], "PandaReach": [0.2, 0.0, 0.0]}
WHEELED = [name for name, task in TASKS.items() if task.base]
SECOND = 10**9


def profile(**settings):
    return SimProfile.model_validate(settings)


def seeing_car():
    text = files("offrl_contract").joinpath("robots", "racecar.yaml").read_text()
    return robot_from_yaml(text.replace("\naction:\n", f"\n{LIDAR}action:\n"), "racecar.yaml")


@pytest.fixture
def simulate():
    built = []

    def build(task, profile=NOMINAL, robot=None, seed=3):
        made = TASKS[task].simulate(robot or load_robot(TASKS[task].robot), profile)
        made.reset(np.random.default_rng(seed))
        built.append(made)
        return made

    yield build
    for each in built:
        each.close()


def delays(deliveries):
    """Time from measurement to reception by topic [ns], but for the first moment's."""
    found = {}
    for each in deliveries:
        header = getattr(each.message, "header", None)
        if header is not None:
            measured = header.stamp.sec * SECOND + header.stamp.nanosec
            found.setdefault(each.topic, []).append(each.stamp - measured)
    return {topic: np.array(values[1:]) for topic, values in found.items()}


def test_the_readme_table_is_that_of_the_code():
    readme = Path(__file__).resolve().parents[2] / "sim" / "README.md"
    assert options(SimProfile) in readme.read_text(), f"paste this:\n{options(SimProfile)}"


def test_numbers_and_ranges_are_read(tmp_path):
    file = tmp_path / "shift.yaml"
    file.write_text("observation_latency: 0.05\nfriction: [0.5, 1.25]\n")
    given = load_profile(file)
    assert given.observation_latency == (0.05, 0.05)
    assert given.friction == (0.5, 1.25)
    assert given.mass == NOMINAL.mass == (1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("frction: 0.5", r"shift.yaml: frction: unknown key. Did you mean 'friction'\?"),
        ("mass: [1.2, 0.8]", r"shift.yaml: mass: .*1.2 is above 0.8"),
        ("mass: 0", r"shift.yaml: mass.*greater than 0.*got 0"),
        ("lidar_dropout: [0, 1.5]", r"shift.yaml: lidar_dropout.*less than or equal to 1"),
        ("action_latency: -0.1", r"shift.yaml: action_latency.*greater than or equal to 0"),
        ("motor: strong", r"shift.yaml: motor.*got 'strong'"),
        ("- friction", "shift.yaml: not a mapping"),
    ],
)
def test_errors_name_file_key_and_what_is_allowed(tmp_path, text, error):
    file = tmp_path / "shift.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=error):
        load_profile(file)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        load_profile(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("task", TASKS)
def test_each_episode_draws_from_the_ranges_and_the_world_stays(simulate, task):
    nominal = simulate(task)
    shifted = simulate(task, profile(mass=[0.8, 1.2], observation_latency=[0.0, 0.1]))
    drawn = []
    for seed in range(30):
        for each in (nominal, shifted):
            each.reset(np.random.default_rng(seed))
        assert shifted.world.as_dict() == nominal.world.as_dict()
        drawn.append((shifted.conditions.mass, shifted.conditions.observation_latency))
        assert shifted.conditions.friction == 1.0
    masses, latencies = np.array(drawn).T
    assert 0.8 <= masses.min() < 0.95 < 1.05 < masses.max() <= 1.2
    assert 0.0 <= latencies.min() < 0.04 < 0.06 < latencies.max() <= 0.1
    shifted.reset(np.random.default_rng(0))
    assert (shifted.conditions.mass, shifted.conditions.observation_latency) == drawn[0]


@pytest.mark.parametrize("task", TASKS)
def test_observation_latency_delays_every_message(simulate, task):
    until = 2 * SECOND
    plain = delays(simulate(task).advance(simulate(task).start + until))
    late = simulate(task, profile(observation_latency=0.05))
    deliveries = late.advance(late.start + until)
    stamps = [each.stamp for each in deliveries]
    assert stamps == sorted(stamps)
    assert max(stamps) <= late.start + until
    for topic, values in delays(deliveries).items():
        count = len(values)
        np.testing.assert_array_equal(values, plain[topic][:count] + 50_000_000)
        assert count > 0.9 * len(plain[topic]) - 6


@pytest.mark.parametrize("task", WHEELED)
def test_observation_jitter_spreads_and_keeps_the_order_of_a_topic(simulate, task):
    shaky = simulate(task, profile(observation_jitter=0.06))
    deliveries = shaky.advance(shaky.start + 5 * SECOND)
    received = [each.stamp for each in deliveries]
    assert received == sorted(received)
    headers = {}
    for each in deliveries:
        if hasattr(each.message, "header"):
            stamp = each.message.header.stamp
            headers.setdefault(each.topic, []).append(stamp.sec * SECOND + stamp.nanosec)
    for stamps in headers.values():
        assert stamps == sorted(stamps)
    spread = delays(deliveries)["/odom"] / 1e6
    assert 12.0 < spread.std() < 20.0  # 17.3 of a uniform one of 60 ms, less what order costs
    assert spread.min() < 10.0
    assert 55.0 < spread.max() < 66.0


def first_motion(simulation, command):
    """Time from a command to the first physics step that feels it [s]."""
    simulation.advance(simulation.start + SECOND // 2)
    simulation.command(np.array(command))
    for step in range(1, 200):
        simulation.advance(simulation.start + SECOND // 2 + step * SECOND // STEPS_PER_SECOND)
        if simulation._response.motors != simulation._safe:
            return step / STEPS_PER_SECOND
    raise AssertionError("the robot did not move")


@pytest.mark.parametrize("task", TASKS)
def test_action_latency_delays_the_effect_not_the_log(simulate, task):
    plain = first_motion(simulate(task), COMMANDS[task])
    late = simulate(task, profile(action_latency=0.1))
    late.advance(late.start + SECOND // 2)
    late.command(np.array(COMMANDS[task]))
    assert late.in_force == COMMANDS[task]
    late.reset(np.random.default_rng(3))
    delayed = first_motion(late, COMMANDS[task])
    assert delayed - plain == pytest.approx(0.1, abs=1.5 / STEPS_PER_SECOND)


def test_action_jitter_differs_from_command_to_command(simulate):
    shaky = simulate("DiffDriveNav", profile(action_jitter=0.1))
    found = []
    for seed in range(12):
        shaky.reset(np.random.default_rng(seed))
        found.append(first_motion(shaky, COMMANDS["DiffDriveNav"]))
    assert min(found) < 0.03
    assert 0.07 < max(found) < 0.11


def test_a_late_command_never_overtakes_a_later_one(simulate):
    shaky = simulate("DiffDriveNav", profile(action_jitter=0.2))
    followed = []
    for step in range(300):
        shaky.advance(shaky.start + step * SECOND // 100)
        shaky.command(np.array([0.001 * step, 0.0]))
        followed.append(shaky._wanted[0])
    assert followed == sorted(followed)
    assert followed[-1] > 0.1


def speeds(simulation, command, seconds=2.0):
    """Speed and yaw rate at 50 Hz after a command from rest (n, 2), in SI units."""
    simulation.advance(simulation.start + SECOND // 2)
    found = []
    for step in range(round(50 * seconds)):
        simulation.command(np.array(command))
        simulation.advance(simulation.start + SECOND // 2 + (step + 1) * SECOND // 50)
        found.append((simulation.body.forward, simulation.body.turning))
    return np.array(found)


@pytest.mark.parametrize("task", WHEELED)
def test_gains_scale_what_the_wheels_do(simulate, task):
    roles = TASKS[task].simulation.roles
    command = [0.4 if role == "speed" else 0.2 for role in roles]
    plain = speeds(simulate(task), command)[-1]
    fast = speeds(simulate(task, profile(speed_gain=1.2)), command)[-1]
    bent = speeds(simulate(task, profile(steering_gain=0.7)), command)[-1]
    curve = {"steering": np.tan(0.14) / np.tan(0.2), "turning": 0.7}  # of a bicycle, of two wheels
    kind = next(role for role in roles if role != "speed")
    assert fast[0] / plain[0] == pytest.approx(1.2, rel=0.02)
    assert bent[0] / plain[0] == pytest.approx(1.0, rel=0.02)
    assert bent[1] / plain[1] == pytest.approx(curve[kind], rel=0.02)


@pytest.mark.parametrize("task", WHEELED)
def test_speed_follows_with_the_lag(simulate, task):
    """After one time constant 63 % of the way is done, the ramp comes on top."""
    command = [0.4 if role == "speed" else 0.0 for role in TASKS[task].simulation.roles]
    plain, lagged = (
        speeds(simulate(task, profile(speed_lag=lag)), command)[:, 0] for lag in (0.0, 0.3)
    )
    for share in (0.3, 0.63):
        reached = 0.4 * (1.0 - np.exp(-share / 0.3))
        at = round(50 * share)
        assert lagged[at] < plain[at]
        assert lagged[at] == pytest.approx(reached, abs=0.07)
    assert lagged[-1] == pytest.approx(0.4, abs=0.01)


def scans(simulation, seconds=6.0):
    simulation.reset(np.random.default_rng(5))
    arrived = simulation.advance(simulation.start + round(seconds * SECOND))
    return np.array([each.message.ranges for each in arrived if each.topic == "/scan"])


@pytest.mark.parametrize("task", WHEELED)
def test_lidar_noise_and_dropout(simulate, task):
    robot = seeing_car() if task == "RacecarTrack" else None
    quiet = scans(simulate(task, profile(lidar_noise=0.0), robot))
    assert quiet.std(axis=0).max() < 3e-3  # it settles on its wheels
    noisy = scans(simulate(task, profile(lidar_noise=0.04), robot))
    seen = np.isfinite(quiet).all(axis=0) & (quiet.max(axis=0) < 7.0)
    assert noisy[:, seen].std(axis=0).mean() == pytest.approx(0.04, rel=0.1)
    holed = scans(simulate(task, profile(lidar_noise=0.0, lidar_dropout=0.2), robot))
    lost = np.isinf(holed[:, seen])
    assert lost.mean() == pytest.approx(0.2, abs=0.03)
    assert lost.any(axis=0).mean() > 0.9
    np.testing.assert_allclose(holed[:, seen][~lost], quiet[:, seen][~lost], atol=1e-2)


def speed_after(simulation, command, seconds):
    simulation.command(np.array(command))
    simulation.advance(simulation.start + round(seconds * SECOND))
    return simulation._physics.body().forward


def test_mass_and_motor_change_how_the_car_accelerates(simulate):
    """The motors' torque is the limit: acceleration goes with torque over mass."""
    plain, heavy, weak, both = (
        speed_after(simulate("RacecarTrack", profile(**settings)), [0.0, 3.0], 0.25)
        for settings in ({}, {"mass": 1.2}, {"motor": 0.8}, {"mass": 0.8, "motor": 0.8})
    )
    assert heavy / plain == pytest.approx(1.0 / 1.2, rel=0.08)
    assert weak / plain == pytest.approx(0.8, rel=0.08)
    assert both / plain == pytest.approx(1.0, rel=0.08)


def test_mass_and_motor_change_the_two_wheeled_robot(simulate):
    """Its motors are strong: mass tells under a push, and torque only when there is little."""
    plain, weak = (
        speed_after(simulate("DiffDriveNav", profile(motor=motor)), [0.8, 0.0], 0.25)
        for motor in (1.0, 0.1)
    )
    assert weak < 0.5 * plain
    spun = []
    for mass in (0.8, 1.2):
        pushed = simulate("DiffDriveNav", profile(mass=mass))
        pushed.advance(pushed.start + SECOND // 2)
        for _ in range(12):
            pushed._physics.push((0.0, 0.0), 6.0)
            pushed._physics.step()
        spun.append(abs(pushed._physics.body().turning))
    assert spun[0] > 1.2 * spun[1]


def test_friction_limits_how_fast_the_car_can_turn(simulate):
    found = []
    for friction in (0.5, 1.0):
        car = simulate("RacecarTrack", profile(friction=friction))
        physics = car._physics
        physics.drive(0.0, 3.0)
        for _ in range(3 * STEPS_PER_SECOND):
            physics.step()
        physics.drive(0.4, 3.0)
        for _ in range(STEPS_PER_SECOND // 2):
            physics.step()
        body = physics.body()
        found.append(abs(body.turning * np.hypot(body.forward, body.sideways)))
    assert found[0] == pytest.approx(0.5 * 0.7 * 9.81, rel=0.25)
    assert found[1] == pytest.approx(2.0 * found[0], rel=0.25)


def test_friction_limits_how_hard_the_two_wheeled_robot_accelerates(simulate):
    icy, plain = (
        speed_after(simulate("DiffDriveNav", profile(friction=friction)), [0.8, 0.0], 0.25)
        for friction in (0.05, 1.0)
    )
    assert icy < 0.5 * plain


@pytest.mark.parametrize("task", TASKS)
def test_nominal_episode_after_a_shifted_one_is_as_ever(task):
    """The ranges of one profile, drawn anew: what an episode drew is not left behind."""
    shift = profile(mass=[0.8, 1.2], friction=[0.5, 1.25], motor=[0.8, 1.2])
    env = TaskEnv(task, profile=shift)
    low, high = np.array(env.robot.limits).T
    actions = np.random.default_rng(0).uniform(low, high, (15, len(low)))

    def poses(seed):
        env.reset(seed=seed)
        return np.array([env.step(action)[-1]["pose"] for action in actions])

    first = poses(1)
    poses(2)
    np.testing.assert_array_equal(poses(1), first)
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_a_bag_recorded_under_a_profile_says_what_the_environment_said(task, tmp_path):
    shift = profile(
        observation_latency=[0.02, 0.07], observation_jitter=0.01, action_latency=[0.0, 0.05]
    )
    env = TaskEnv(task, profile=shift)
    (bag,) = record_bags(env, tmp_path / "bags", 2, 307, 1, lambda: None)
    env.close()
    file = tmp_path / "shifted.h5"
    list(assert_bags_say_what_the_simulator_said(task, [bag.path], [307, 308], file, shift))


@pytest.mark.parametrize(
    ("task", "settings", "term"),
    [
        ("DiffDriveNav", {"observation_latency": [0.0, 0.26]}, "scan of .* 0.31 s old.* 0.3 s"),
        ("RacecarTrack", {"observation_jitter": 0.3}, "offset of .* 0.4 s old.* 0.3 s"),
        ("PandaReach", {"observation_latency": 0.5}, "joints of .* 0.52 s old.* 0.2 s"),
    ],
)
def test_delays_that_leave_the_robot_blind_are_refused(task, settings, term):
    with pytest.raises(InputError, match=term):
        TaskEnv(task, profile=profile(**settings))


def test_the_longest_delay_that_is_taken_leaves_no_robot_blind():
    env = TaskEnv("DiffDriveNav", profile=profile(observation_latency=0.2, observation_jitter=0.05))
    for seed in range(3):
        env.reset(seed=seed)
        for _ in range(8):
            env.step(np.zeros(2, np.float32))
    env.close()


def test_an_episode_goes_on_where_the_node_would_stop_for_a_blind_lidar() -> None:
    env = TaskEnv("DiffDriveNav", profile=SimProfile(lidar_dropout=(0.9, 0.9)))
    (scan,) = (term for term in env.robot.observation if term.name == "scan")
    assert scan.max_missing is not None
    assert scan.max_missing < 0.9
    env.reset(seed=0)
    for _ in range(5):
        seen, *_ = env.step(np.zeros(2, np.float32))
        assert np.isfinite(seen).all()
    env.close()
