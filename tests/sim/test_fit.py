"""What `offrl sim fit` says of bags whose truth is known, and of real ones."""

import numpy as np
import pytest
from offrl_contract import InputError, load_robot
from offrl_data.bags import find_bags
from offrl_data.message_definitions import MessageDefinitions
from offrl_sim.commands import sim
from offrl_sim.env import TaskEnv
from offrl_sim.fit.commands import FitConfig, fit, profile_text
from offrl_sim.fit.estimate import GRAIN, SHARP, conditions, estimate
from offrl_sim.fit.log import Commands, Stretch, read_log
from offrl_sim.fit.problem import RUN_IN, base_of, windows_of
from offrl_sim.fit.replay import NAMES, respond, simulate
from offrl_sim.physics import STEPS_PER_SECOND
from offrl_sim.profile import SimProfile, load_profile
from offrl_sim.record import record_bags
from offrl_sim.tasks import find_task

NOMINAL = {"action_latency": 0.0, "speed_gain": 1.0, "steering_gain": 1.0, "speed_lag": 0.0}
TRUTHS = {
    "DiffDriveNav": dict(zip(NOMINAL, (0.12, 0.9, 0.8, 0.2), strict=True)),
    "RacecarTrack": dict(zip(NOMINAL, (0.08, 1.1, 0.85, 0.15), strict=True)),
}
SLIPPERY = {"friction": 0.5}
SCENARIOS = {"DiffDriveNav": range(40, 44), "RacecarTrack": range(70, 76)}


def record(out, task, **profile):
    env = TaskEnv(task, profile=SimProfile.model_validate(profile))
    record_bags(env, out, len(SCENARIOS[task]), SCENARIOS[task][0], 1, lambda: None)
    env.close()
    return out


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """Bags of each task under its known profile."""
    folder = tmp_path_factory.mktemp("shifted")
    ground = {"DiffDriveNav": {}, "RacecarTrack": SLIPPERY}
    return {
        task: record(folder / task, task, **truth, **ground[task]) for task, truth in TRUTHS.items()
    }


def loaded(bags, task):
    """Base, windows and physics of a task and its bags."""
    known = find_task(task)
    robot, physics = load_robot(known.robot), known.base()
    base, order = base_of(known, robot, physics)
    log = read_log(find_bags([bags]), robot, order, MessageDefinitions())
    return base, windows_of(log.stretches, base), physics


def assert_intervals_hold(result, truth):
    assert [each.name for each in result.estimates[: len(NAMES)]] == list(NAMES)
    for each, grain in zip(result.estimates, GRAIN, strict=False):
        assert each.high - each.value >= grain - 1e-9, each
        assert each.reason == "", each
        assert each.low <= truth[each.name] <= each.high, each
        assert each.high - each.low < SHARP[each.name]


@pytest.fixture(scope="module")
def found(shifted):
    return {task: fit(FitConfig((shifted[task],), task)) for task in TRUTHS}


@pytest.mark.parametrize("task", TRUTHS)
def test_a_known_profile_is_recovered_and_the_nominal_one_excluded(found, task):
    result = found[task]
    assert_intervals_hold(result, TRUTHS[task])
    for each in result.estimates[: len(NAMES)]:
        assert not each.low <= NOMINAL[each.name] <= each.high
    for residual in result.residuals:
        assert residual.rms < 0.4 * residual.nominal
        assert residual.explained > 0.95


def test_friction_is_told_by_a_car_that_slides_and_by_no_robot_that_holds(found):
    holds = found["DiffDriveNav"].estimates[-1]
    assert holds.reason == "the base does not slide in this log"
    assert holds.low < 1.0
    assert holds.high == np.inf
    assert "friction" not in found["DiffDriveNav"].profile
    slides = found["RacecarTrack"].estimates[-1]
    assert slides.reason == ""
    assert slides.low <= SLIPPERY["friction"] <= slides.high < 1.0


def test_nominal_bags_give_the_nominal_profile(tmp_path):
    result = fit(FitConfig((record(tmp_path / "bags", "DiffDriveNav"),), "DiffDriveNav"))
    assert_intervals_hold(result, NOMINAL)


def test_the_profile_that_is_written_is_one_to_record_with(found, tmp_path):
    file = tmp_path / "profile.yaml"
    file.write_text(profile_text(found["DiffDriveNav"]))
    assert "# friction: the base does not slide in this log\n" in file.read_text()
    profile = load_profile(file)
    for name, truth in TRUTHS["DiffDriveNav"].items():
        assert getattr(profile, name) == pytest.approx((truth, truth), rel=0.05)
    assert profile.mass == profile.friction == (1.0, 1.0)


@pytest.mark.parametrize("task", TRUTHS)
def test_response_model_and_physics_agree_where_tyres_hold(shifted, task):
    """Under one profile, both replays follow each other, and the log."""
    base, windows, physics = loaded(shifted[task], task)
    parameters = np.array([TRUTHS[task][name] for name in NAMES])
    some = windows.only(range(0, len(windows), 4))
    modelled = respond(base, some, parameters[None])[0]
    simulated = simulate(base, some, physics, conditions(parameters))
    physics.close()
    for other in (simulated, some.motion):
        error = np.abs(modelled - other)[some.known]
        assert np.median(error[:, 0]) < 0.02
        assert np.median(error[:, 1]) < 0.03


def test_what_a_replay_is_told_is_what_reached_the_base(shifted):
    base, windows, physics = loaded(shifted["DiffDriveNav"], "DiffDriveNav")
    physics.close()
    window = windows.windows[3]
    targets = windows.targets(0.25)[:, 3]
    for step in (0, 300, 700):
        time = window.start - RUN_IN + (step + 1) / STEPS_PER_SECOND - 0.25
        commands = window.stretch.commands
        held = commands.values[commands.times <= time + 1e-7]
        np.testing.assert_array_equal(targets[step], held[-1] if len(held) else base.safe)


def test_a_command_holds_until_the_next_and_no_longer_than_the_base_lets_it():
    commands = Commands(np.array([0.0, 1.0, 2.5]), np.array([[0.0], [0.4], [0.0]]))
    np.testing.assert_array_equal(
        commands.at(np.array([-1.0, 0.5, 1.0, 2.4, 2.5]))[:, 0], [0.0, 0.0, 0.4, 0.4, 0.0]
    )


def test_bad_input_is_named(shifted):
    bags = shifted["DiffDriveNav"]
    with pytest.raises(InputError, match=r"no task 'DifDriveNav'. Did you mean 'DiffDriveNav'\?"):
        sim(["fit", str(bags), "--task", "DifDriveNav"])
    with pytest.raises(
        InputError, match=r"nothing drives there\. Use DiffDriveNav or RacecarTrack"
    ):
        sim(["fit", str(bags), "--task", "PandaReach"])
    with pytest.raises(InputError, match="its action has no field steering_angle"):
        fit(FitConfig((bags,), "RacecarTrack", robot="diffdrive"))
    with pytest.raises(InputError, match="no topic /drive"):
        fit(FitConfig((bags,), "RacecarTrack"))
    with pytest.raises(InputError, match="--seed -1: must be 0 or more"):
        fit(FitConfig((bags,), "DiffDriveNav", seed=-1))


def test_too_little_motion_is_refused(shifted):
    base, windows, physics = loaded(shifted["DiffDriveNav"], "DiffDriveNav")
    physics.close()
    whole = windows.windows[0].stretch
    first = slice(0, 300)
    short = Stretch(whole.times[first], whole.motion[first], whole.place[first], whole.commands)
    with pytest.raises(InputError, match=r"^2 windows .* in 6 s .*: at least 5 are"):
        windows_of([short], base)


def test_a_robot_that_was_commanded_and_never_moved_is_refused(shifted):
    base, windows, physics = loaded(shifted["DiffDriveNav"], "DiffDriveNav")
    whole = windows.windows[0].stretch
    still = Stretch(whole.times, np.zeros_like(whole.motion), whole.place, whole.commands)
    with pytest.raises(InputError, match="the odometry never changes"):
        estimate(base, windows_of([still], base), physics, np.random.default_rng(0))
    physics.close()


@pytest.mark.bags
def test_a_real_robot_that_turns_and_stops_tells_its_base(bags, tmp_path, capsys):
    profile = tmp_path / "neato.yaml"
    words = ["--task", "DiffDriveNav", "--robot", "neato", "--msgs", str(bags / "msg")]
    sim(["fit", str(bags / "neato_drive_square"), *words, "--output", str(profile)])
    printed = capsys.readouterr().out
    assert "action_latency" in printed
    assert "no: the base does not" in printed
    known = load_profile(profile)
    assert 0.3 < known.action_latency[0] < 0.5
    assert 0.95 < known.speed_gain[0] < 1.05


@pytest.mark.bags
def test_what_a_real_log_cannot_tell_is_said(bags):
    folder = bags / "ackermann_gps"
    result = fit(FitConfig((folder,), "RacecarTrack", robot="ackermann", msgs=bags / "msg"))
    reasons = {each.name: each.reason for each in result.estimates}
    assert reasons["steering_gain"] == "the log has no yaw rate"
    assert "explain" in reasons["speed_gain"]
    assert "explain" in reasons["friction"]
    assert result.profile == {}
    assert "times are those of reception" in result.notes[0]
