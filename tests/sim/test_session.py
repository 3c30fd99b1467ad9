import json

import numpy as np
import pytest
from offrl_contract import load_robot
from offrl_data.conversion import convert_bags
from offrl_data.dataset import load_dataset
from offrl_sim.diffdrive.picture import Scene, draw_scenes
from offrl_sim.diffdrive.world import generate_world
from offrl_sim.profile import SimProfile
from offrl_sim.record import BagWriter
from offrl_sim.session import AFTERMATH, PAUSE, Session
from offrl_sim.simulation import Delivery
from offrl_sim.tasks import TASKS

TIME_LIMIT = TASKS["DiffDriveNav"].simulation.time_limit
FORWARD = np.array([0.8, 0.0])


@pytest.fixture
def session():
    built = Session(TASKS["DiffDriveNav"], load_robot("diffdrive"), seed=30)
    yield built
    built.close()


def advance(session, seconds, action=None):
    """Deliveries and reports of a stretch of time, a command every tenth of a second."""
    deliveries, reports = [], []
    end = session.now + round(seconds * 1e9)
    beat = session.now
    while session.now < end:
        if action is not None and session.now >= beat:
            session.command(action)
            beat += 10**8
        found, report = session.advance()
        deliveries += found
        reports += [report] if report else []
    return deliveries, reports


def test_an_undriven_robot_waits_and_measures(session):
    deliveries, reports = advance(session, TIME_LIMIT + 2.0)
    assert not reports
    assert sum(delivery.topic == "/scan" for delivery in deliveries) >= 20 * TIME_LIMIT


def test_episodes_follow_one_another_with_silence_between(session):
    _, reports = advance(session, 0.3, FORWARD)
    ended_at = session.now
    while not reports:
        _, reports = advance(session, 0.1, FORWARD)
        ended_at = session.now
    (report,) = reports
    assert report.collided
    assert report.seed == 30
    assert report.episode_return < 0.0
    assert report.start + (len(report.path) - 1) * report.period <= ended_at
    aftermath, _ = advance(session, AFTERMATH)
    assert len(aftermath) > 20
    assert all(d.message.data for d in aftermath if d.topic == "/bumper")
    silence, _ = advance(session, PAUSE - 0.02)
    assert silence == []
    begun, _ = advance(session, 0.5)
    bumps = [delivery.message.data for delivery in begun if delivery.topic == "/bumper"]
    assert len(bumps) >= 8
    assert not any(bumps)


def test_a_driven_robot_that_stands_still_times_out(session):
    _, reports = advance(session, TIME_LIMIT + 0.5, np.zeros(2))
    (report,) = reports
    assert not report.success
    assert not report.collided
    assert len(report.path) == TIME_LIMIT * 10 + 1
    plain = json.loads(json.dumps(report.as_dict()))
    assert plain["seconds"] == pytest.approx(TIME_LIMIT)


def test_a_bag_of_a_drive_says_what_the_session_said(session, tmp_path):
    """Up to the bump, whose tick counts the command that led to it."""
    simulation = session.simulation
    topic = simulation.command_topic
    command = np.array([0.8, 0.9])
    report, beat = None, session.now
    with BagWriter(
        tmp_path / "bag", simulation.published | {topic: simulation.types[topic]}
    ) as bag:
        while report is None or session.now < report.start + report.period * len(report.path):
            if session.now >= beat:
                session.command(command)
                message = simulation.command_message(session.now, command.tolist())
                bag.take(Delivery(topic, session.now, message))
                beat += 10**8
            deliveries, ended = session.advance()
            report = report or ended
            for delivery in deliveries:
                bag.take(delivery)
    assert report.collided
    convert_bags([tmp_path / "bag"], load_robot("diffdrive"), tmp_path / "drive.h5")
    said = load_dataset(tmp_path / "drive.h5")
    assert said.terminals[-1]
    assert len(said) == len(report.path) - 1
    assert report.episode_return == pytest.approx(said.rewards.sum(), abs=1e-4)


def test_command_that_is_not_finite_is_refused(session):
    assert not session.command(np.array([np.nan, 0.0]))
    _, reports = advance(session, 1.0)
    assert not reports


def test_begin_abandons_the_running_episode(session):
    advance(session, 1.0, FORWARD)
    session.disturb("shove")
    session.begin(77)
    _, reports = advance(session, TIME_LIMIT + 0.5, np.zeros(2))
    assert [report.seed for report in reports] == [77]
    assert reports[0].disturbances == []


def test_picture_is_drawn_whole_or_not_at_all(tmp_path):
    world = generate_world(np.random.default_rng(1))
    path = np.linspace(world.start[:2], world.goal, 30)
    states = ["NOMINAL"] * 20 + ["CAUTION"] * 4 + ["FALLBACK"] * 5
    scenes = [Scene(world, path, "plain"), Scene(world, path, "gated", states, [(20, "shove")])]
    file = tmp_path / "drive.png"
    draw_scenes(scenes, file)
    assert file.read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in tmp_path.iterdir()] == ["drive.png"]


def test_an_episode_with_a_blind_lidar_is_scored_as_any_other():
    """The node would stop; what the robot did is scored all the same."""
    reports = []
    for dropout in (0.0, 0.4):
        profile = SimProfile(lidar_dropout=(dropout, dropout))
        session = Session(TASKS["DiffDriveNav"], load_robot("diffdrive"), 307, profile)
        _, found = advance(session, TIME_LIMIT + 1.0, FORWARD)
        session.close()
        reports.append(found[0])
    clear, blind = reports
    assert blind.path == clear.path
    assert blind.episode_return == pytest.approx(clear.episode_return, abs=0.1)
