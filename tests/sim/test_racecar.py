from importlib.resources import files

import numpy as np
import pybullet
import pytest
from offrl_sim.env import TaskEnv
from offrl_sim.evaluate import behaviour_rng, rollout_behaviour
from offrl_sim.physics import STEPS_PER_SECOND
from offrl_sim.racecar.behaviour import SHARES
from offrl_sim.racecar.lidar import wall_distances
from offrl_sim.racecar.physics import WHEELBASE, RacecarPhysics
from offrl_sim.racecar.track import HALF_WIDTH, Track, generate_track

AT_ORIGIN = (0.0, 0.0, 0.0)
LIDAR = (
    "  - {name: scan, topic: /scan, type: sensor_msgs/msg/LaserScan, field: ranges, bins: 36, "
    "clip: [0.05, 5.0], max_age: 0.3}\n"
)


@pytest.fixture(scope="module")
def physics():
    built = RacecarPhysics()
    yield built
    built.close()


@pytest.fixture(scope="module")
def env():
    built = TaskEnv("RacecarTrack")
    yield built
    built.close()


def drive(physics, steering, speed, seconds):
    physics.drive(steering, speed)
    for _ in range(round(seconds * STEPS_PER_SECOND)):
        physics.step()
    return physics.body()


def circle(radius):
    """A round track, driven counterclockwise from its eastern end."""
    angles = 2.0 * np.pi * np.arange(400) / 400
    points = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    curvatures = np.full(400, 1.0 / radius)
    return Track(
        points, angles + np.pi / 2, curvatures, 2 * np.pi * radius, (radius, 0.0, np.pi / 2)
    )


def test_mass_and_yaw_inertia_are_those_of_the_f1tenth_car(physics):
    """3.74 kg and 0.0471 kg m^2 in f1tenth_gym's f110_env.py."""
    masses = {link: info[0] for link, info in physics._links.items()}
    assert sum(masses.values()) == pytest.approx(3.74)
    for link, info in physics._links.items():
        assert min(info[2]) > 1e-5, link
    places = [(0.165, 0.11)] * 2 + [(0.165, -0.11)] * 2 + [(-0.165, 0.11), (-0.165, -0.11)]
    about_centre = physics._links[-1][2][2]
    for link, (x, y) in enumerate(places):
        about_centre += physics._links[link][2][2] + masses[link] * (x**2 + y**2)
    assert about_centre == pytest.approx(0.0471, rel=0.15)


def test_car_reaches_the_commanded_speed(physics):
    physics.reset(AT_ORIGIN)
    body = drive(physics, 0.0, 3.0, 0.5)
    assert body.forward / 0.5 == pytest.approx(3.0, abs=0.6)  # m/s^2: the motors' torque
    body = drive(physics, 0.0, 3.0, 1.5)
    assert body.forward == pytest.approx(3.0, abs=0.02)
    assert abs(body.y) < 0.01
    assert drive(physics, 0.0, 0.0, 2.0).forward == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("steering", [0.4, 0.1, -0.2])
def test_slow_car_drives_the_circle_of_the_bicycle_model(physics, steering):
    physics.reset(AT_ORIGIN)
    body = drive(physics, steering, 1.0, 2.0)
    slip = np.arctan(np.tan(steering) / 2.0)  # at the centre, midway between the axles
    curvature = body.turning / np.hypot(body.forward, body.sideways)
    assert curvature == pytest.approx(2.0 * np.sin(slip) / WHEELBASE, rel=0.02)
    assert physics.steering() == pytest.approx(steering, abs=2e-3)


def test_tyres_hold_no_more_than_their_friction(physics):
    physics.reset(AT_ORIGIN)
    drive(physics, 0.0, 3.0, 2.0)
    body = drive(physics, 0.4, 3.0, 1.0)
    assert abs(body.turning * body.forward) < 1.05 * 0.7 * 9.81
    wanted = 3.0**2 * np.tan(0.4) / WHEELBASE
    assert wanted > 1.5 * 0.7 * 9.81


def test_nothing_is_left_of_the_episode_before(physics):
    def episode():
        physics.reset((1.0, 2.0, 0.5))
        return drive(physics, 0.2, 1.5, 1.0), drive(physics, -0.3, 2.0, 0.5)

    fresh = episode()
    physics.reset(AT_ORIGIN)
    physics.push((0.0, 200.0), 5.0)
    drive(physics, -0.4, 3.0, 2.0)
    physics.vary(1.2, 0.5, 0.8)
    drive(physics, 0.4, 0.5, 1.0)
    physics.vary(1.0, 1.0, 1.0)
    assert episode() == fresh


@pytest.mark.parametrize("seed", range(20))
def test_tracks_are_closed_drivable_and_never_meet_themselves(seed):
    track = generate_track(np.random.default_rng(seed))
    steps = np.linalg.norm(np.roll(track.points, -1, axis=0) - track.points, axis=1)
    np.testing.assert_allclose(steps, track.spacing, rtol=0.02)
    assert abs(track.curvatures.sum() * track.spacing) == pytest.approx(2 * np.pi, abs=1e-6)
    sharpest = np.abs(track.curvatures).max()
    assert 0.8 <= sharpest <= np.tan(0.4) / WHEELBASE
    tangents = np.stack([np.cos(track.headings), np.sin(track.headings)], axis=1)
    forward = ((np.roll(track.points, -1, axis=0) - track.points) * tangents).sum(axis=1)
    assert forward.min() > 0.0
    # from no place on the line is a wall nearer than its own
    walls = track.walls.mean(axis=1)
    gaps = np.linalg.norm(track.points[:, None] - walls, axis=2)
    assert gaps.min() > HALF_WIDTH - 0.02
    along, left, heading = track.locate(*track.start)
    assert abs(left) <= 0.21
    assert abs(heading) <= 0.21
    assert 0.0 <= along <= track.length


def test_both_directions_and_many_shapes_occur():
    tracks = [generate_track(np.random.default_rng(seed)) for seed in range(20)]
    signs = {np.sign(track.curvatures.sum()) for track in tracks}
    assert signs == {-1.0, 1.0}
    assert sum(track.curvatures.min() < 0 < track.curvatures.max() for track in tracks) > 10


def test_place_on_a_round_track_by_hand():
    track = circle(4.0)
    angle = 1.0
    x, y = 3.7 * np.cos(angle), 3.7 * np.sin(angle)
    along, left, heading = track.locate(x, y, angle + np.pi / 2 + 0.2)
    np.testing.assert_allclose([along, left, heading], [4.0, 0.3, 0.2], atol=5e-3)
    np.testing.assert_allclose(track.curvature_at(np.array([1.0, 26.0])), 0.25)


def test_rays_to_walls_by_hand():
    square = np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])
    walls = np.stack([square, np.roll(square, -1, axis=0)], axis=1)[:3]  # open to the south
    angles = np.array([0.0, np.pi / 2, np.pi, np.pi / 6, -np.pi / 2])
    expected = [0.5, 1.0, 1.5, 0.5 / np.cos(np.pi / 6), np.inf]
    np.testing.assert_allclose(wall_distances(np.array([0.5, 0.0]), angles, walls), expected)


@pytest.mark.parametrize("seed", [0, 1])
def test_ray_caster_equals_pybullet(seed):
    """The walls as upright boxes of 0.2 mm."""
    rng = np.random.default_rng(seed)
    track = generate_track(rng)
    client = pybullet.connect(pybullet.DIRECT)
    for (ax, ay), (bx, by) in track.walls:
        half = np.hypot(bx - ax, by - ay) / 2
        shape = pybullet.createCollisionShape(
            pybullet.GEOM_BOX, halfExtents=(half, 1e-4, 0.5), physicsClientId=client
        )
        turn = pybullet.getQuaternionFromEuler((0, 0, np.arctan2(by - ay, bx - ax)))
        middle = ((ax + bx) / 2, (ay + by) / 2, 0.0)
        pybullet.createMultiBody(0.0, shape, -1, middle, turn, physicsClientId=client)
    angles = rng.uniform(-np.pi, np.pi, 200)
    place = np.array(track.start[:2])
    ends = place + 20.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    hits = pybullet.rayTestBatch(
        [(*place, 0.0)] * 200, [(*end, 0.0) for end in ends], physicsClientId=client
    )
    pybullet.disconnect(client)
    theirs = 20.0 * np.array([hit[2] for hit in hits])
    away = np.abs(wall_distances(place, angles, track.walls) - theirs)
    # PyBullet rounds the boxes: a ray may graze one, or pass where two of them meet
    assert (away < 5e-3).mean() > 0.95
    assert np.median(away) < 1e-3


def test_observation_is_what_the_car_does(env):
    command = np.array([0.1, 1.0], np.float32)
    env.reset(seed=3)
    for _ in range(10):
        observation, _, terminal, _, info = env.step(command)
    assert not terminal
    terms = {name: observation[part] for name, part in env.robot.observation_slices.items()}
    track = env.simulation.world
    along, left, heading = track.locate(*info["pose"])
    assert terms["offset"][0] == pytest.approx(left, abs=0.05)
    assert terms["heading"][0] == pytest.approx(heading, abs=0.08)
    np.testing.assert_allclose(terms["twist"], [1.0, 0.05], atol=0.08)
    assert terms["yaw_rate"][0] == pytest.approx(np.tan(0.1) / WHEELBASE, abs=0.05)
    assert terms["steering"][0] == pytest.approx(0.1, abs=0.015)
    ahead = track.curvature_at(along + 0.25 + 0.5 * np.arange(6))
    np.testing.assert_allclose(terms["curvature"], ahead, atol=0.08)
    np.testing.assert_allclose(terms["last_action"], [*command, *command], rtol=1e-6)


def test_a_robot_file_with_a_lidar_sees_the_walls(env, tmp_path):
    file = tmp_path / "with_lidar.yaml"
    text = files("offrl_contract").joinpath("robots", "racecar.yaml").read_text()
    file.write_text(text.replace("\naction:\n", f"\n{LIDAR}action:\n"))
    seeing = TaskEnv("RacecarTrack", str(file))
    observation, info = seeing.reset(seed=3)
    scan = observation[seeing.robot.observation_slices["scan"]]
    _, left, heading = info["world"].locate(*info["pose"])
    assert abs(heading) < 0.25
    sides = scan[[9, 27]] * np.cos(heading)  # to the right, to the left
    np.testing.assert_allclose(sides, [HALF_WIDTH + left, HALF_WIDTH - left], atol=0.08)
    seeing.close()
    assert "/scan" not in env.simulation.published


def test_return_is_the_distance_driven_along_the_track(env):
    """Rewards add up to progress less the small cost for steering; laps go on counting."""
    behaviour = env.task.behaviour(env.robot)
    behaviour.begin(behaviour_rng(1021))
    behaviour.skill = type(behaviour.skill)("careful", 1.8, 3.0, 0.8, (0.0, 0.0))
    observation, info = env.reset(seed=2)
    length, total, driven, before = info["world"].length, 0.0, 0.0, info["pose"][:2]
    done = False
    while not done:
        observation, reward, terminal, timeout, info = env.step(behaviour(observation))
        total += reward
        driven += np.hypot(*(info["pose"][:2] - before))
        before, done = info["pose"][:2], terminal or timeout
    assert timeout
    assert info["success"]
    assert driven > length
    assert total == pytest.approx(driven, rel=0.05)


def test_a_wall_ends_the_drive_as_a_failure(env):
    env.reset(seed=4)
    terminal = False
    while not terminal:
        _, reward, terminal, timeout, info = env.step(np.array([0.3, 1.5], np.float32))
        assert not timeout
    assert reward < -9.0
    assert not info["success"]
    _, left, _ = env.simulation.world.locate(*info["pose"])
    assert abs(left) == pytest.approx(0.6, abs=0.12)


def test_behaviour_is_of_mixed_quality(env):
    results = rollout_behaviour(env, 16, 1000)
    behaviour = env.task.behaviour(env.robot)
    kinds = []
    for result in results:
        behaviour.begin(behaviour_rng(result.seed))
        kinds.append(behaviour.skill.kind)
    assert set(kinds) == set(SHARES)
    assert 0.5 <= np.mean([result.success for result in results]) <= 0.95
    assert any(result.collided for result in results)
    returns = np.array([result.episode_return for result in results])
    assert returns.std() > 5.0
    assert np.mean(returns[np.array(kinds) == "slow"]) < returns.mean() - 3.0
