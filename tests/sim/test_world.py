import numpy as np
import pytest
from offrl_sim.diffdrive.lidar import ray_distances
from offrl_sim.diffdrive.physics import RAY_HEIGHT, DiffDrivePhysics
from offrl_sim.diffdrive.world import (
    ARENA,
    PASSAGE,
    RADII,
    ROBOT_RADIUS,
    SHORTEST,
    START_CLEARANCE,
    World,
    generate_world,
)
from offrl_sim.physics import STEPS_PER_SECOND

EMPTY = World(obstacles=np.zeros((0, 3)), slots=(), start=(0.0, 0.0, 0.5), goal=(3.0, 0.0))


@pytest.fixture(scope="module")
def physics():
    built = DiffDrivePhysics()
    yield built
    built.close()


@pytest.mark.parametrize("seed", range(30))
def test_ends_are_clear_and_every_gap_lets_the_robot_through(seed):
    world = generate_world(np.random.default_rng(seed))
    ends = np.array([world.start[:2], world.goal])
    centres, radii = world.obstacles[:, :2], world.obstacles[:, 2]
    to_ends = np.linalg.norm(ends[:, None] - centres, axis=2) - radii
    assert to_ends.min() >= START_CLEARANCE
    assert (ARENA / 2 - np.abs(ends)).min() >= START_CLEARANCE
    assert np.linalg.norm(ends[1] - ends[0]) >= SHORTEST
    gaps = np.linalg.norm(centres[:, None] - centres, axis=2) - radii[:, None] - radii
    np.fill_diagonal(gaps, np.inf)
    passage = 2 * ROBOT_RADIUS + PASSAGE
    assert gaps.min() >= passage - 1e-9
    assert (ARENA / 2 - np.abs(centres).max(axis=1) - radii).min() >= passage - 1e-9
    assert radii.tolist() == [RADII[slot] for slot in world.slots]


def test_worlds_differ_by_seed_and_repeat_with_it():
    first, again, other = (generate_world(np.random.default_rng(seed)) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.obstacles, again.obstacles)
    assert first.start == again.start
    assert first.start != other.start


def test_rays_by_hand():
    obstacles = np.array([[2.0, 0.0, 0.5]])
    angles = np.array([0.0, np.pi / 2, np.pi, -np.pi / 2, np.pi / 4])
    expected = [1.5, 4.0, 4.0, 4.0, 4.0 * np.sqrt(2.0)]
    np.testing.assert_allclose(ray_distances(np.zeros(2), angles, obstacles), expected)


def test_a_ray_from_within_a_circle_reads_its_far_side():
    obstacles = np.array([[0.1, 0.0, 0.5]])
    np.testing.assert_allclose(ray_distances(np.zeros(2), np.array([0.0]), obstacles), [0.6])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ray_caster_equals_pybullet(physics, seed):
    rng = np.random.default_rng(seed)
    world = generate_world(rng)
    physics.reset(world)
    angles = rng.uniform(-np.pi, np.pi, 400)
    for position in (np.array(world.start[:2]), np.array(world.goal)):
        ours = ray_distances(position, angles, world.obstacles)
        theirs = physics.ray_distances(position, angles, 12.0, RAY_HEIGHT)
        # A ray that grazes a cylinder may hit it for one and miss it for the other.
        close = np.abs(ours - theirs) < 5e-3
        assert close.mean() > 0.99
        assert np.median(np.abs(ours - theirs)) < 1e-3


def drive(physics, forward, turning, seconds):
    physics.drive(forward, turning)
    touched = [physics.step() for _ in range(round(seconds * STEPS_PER_SECOND))]
    return any(touched), physics.body()


def test_robot_drives_straight_at_the_commanded_speed(physics):
    physics.reset(EMPTY)
    touched, before = drive(physics, 0.5, 0.0, 1.0)
    _, after = drive(physics, 0.5, 0.0, 2.0)
    assert not touched
    travelled = np.array([after.x - before.x, after.y - before.y])
    np.testing.assert_allclose(travelled, [np.cos(0.5), np.sin(0.5)], atol=0.03)
    assert after.forward == pytest.approx(0.5, abs=0.01)
    assert after.sideways == pytest.approx(0.0, abs=0.02)


def test_positive_turning_is_counterclockwise(physics):
    physics.reset(EMPTY)
    drive(physics, 0.0, 1.0, 0.5)
    _, before = drive(physics, 0.0, 1.0, 0.5)
    _, after = drive(physics, 0.0, 1.0, 1.0)
    assert after.yaw - before.yaw == pytest.approx(1.0, abs=0.05)
    assert after.turning == pytest.approx(1.0, abs=0.03)
    assert np.hypot(after.x, after.y) < 0.05


def test_bump_is_felt_where_body_meets_obstacle(physics):
    world = World(np.array([[1.5, 0.0, 0.3]]), (6,), (0.0, 0.0, 0.0), (3.0, 0.0))
    assert RADII[6] == pytest.approx(0.3)
    physics.reset(world)
    touched, body = drive(physics, 0.5, 0.0, 1.5)
    assert not touched
    touched, body = drive(physics, 0.5, 0.0, 2.0)
    assert touched
    assert body.x == pytest.approx(1.5 - 0.3 - ROBOT_RADIUS, abs=0.05)


def test_the_wall_is_felt(physics):
    physics.reset(World(EMPTY.obstacles, (), (3.0, 0.0, 0.0), (0.0, 0.0)))
    touched, body = drive(physics, 0.6, 0.0, 2.5)
    assert touched
    assert body.x == pytest.approx(ARENA / 2 - ROBOT_RADIUS, abs=0.05)


def test_nothing_is_left_of_the_episode_before(physics):
    world = generate_world(np.random.default_rng(8))
    physics.reset(world)
    fresh = drive(physics, 0.4, 0.3, 1.0)
    physics.reset(EMPTY)
    physics.push((0.0, 100.0), 5.0)
    drive(physics, 0.8, 1.5, 4.0)
    physics.reset(world)
    assert drive(physics, 0.4, 0.3, 1.0) == fresh
