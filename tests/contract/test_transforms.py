"""Transforms, against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from offrl_contract.transforms import reduce_bins, wrap_angle, yaw_of


def test_bins_are_equal_runs_and_leave_nan_out() -> None:
    scan = np.array([[1.0, 2.0, np.nan, 4.0, np.nan, np.nan]])
    np.testing.assert_array_equal(reduce_bins(scan, 3, "min"), [[1.0, 4.0, np.nan]])
    np.testing.assert_array_equal(reduce_bins(scan, 3, "max"), [[2.0, 4.0, np.nan]])
    np.testing.assert_array_equal(reduce_bins(scan, 3, "mean"), [[1.5, 4.0, np.nan]])


@pytest.mark.parametrize("beams", [36, 37, 71, 100, 361, 720, 1081])
@pytest.mark.parametrize("reduce", ["min", "max"])
def test_many_scans_at_once_are_reduced_as_one_by_one(beams: int, reduce: str) -> None:
    rng = np.random.default_rng(beams)
    scans = rng.uniform(0.0, 9.0, (50, 1, beams)).astype(np.float32)
    scans[rng.random(scans.shape) < 0.3] = np.nan
    scans[rng.random(scans.shape) < 0.1] = np.inf
    kept = scans.copy()
    alone = np.concatenate([reduce_bins(scan[None], 36, reduce) for scan in scans])
    np.testing.assert_array_equal(reduce_bins(scans, 36, reduce), alone)
    np.testing.assert_array_equal(scans, kept)


def test_361_beams_fill_36_bins_without_loss() -> None:
    scan = np.arange(361.0)[None]
    bins = reduce_bins(scan, 36, "max")
    assert bins.shape == (1, 36)
    assert bins[0, -1] == 360.0
    assert (np.diff(reduce_bins(scan, 36, "min")[0]) >= 10).all()


def test_fewer_beams_than_bins_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 readings for 4 bins"):
        reduce_bins(np.zeros((1, 3)), 4, "min")


@given(st.floats(-3.14, 3.14), st.floats(-1.5, 1.5))
def test_yaw_of_a_rotation_about_z_after_pitch(yaw: float, pitch: float) -> None:
    half = np.array([yaw, pitch]) / 2.0
    (cz, cy), (sz, sy) = np.cos(half), np.sin(half)
    quaternion = np.array([[-sz * sy, cz * sy, sz * cy, cz * cy]])
    np.testing.assert_allclose(yaw_of(quaternion)[0, 0], yaw, atol=1e-9)


@given(st.floats(-100, 100))
def test_wrapped_angle_is_the_same_direction(angle: float) -> None:
    wrapped = wrap_angle(np.array([angle]))[0]
    assert -np.pi <= wrapped < np.pi
    np.testing.assert_allclose(np.exp(1j * wrapped), np.exp(1j * angle), atol=1e-9)


def test_yaw_needs_no_unit_quaternion_but_one_of_some_length() -> None:
    turn = np.array([[0.0, 0.0, np.sin(0.4), np.cos(0.4)]])
    np.testing.assert_allclose(yaw_of(3.0 * turn), [[0.8]])
    assert np.isnan(yaw_of(np.zeros((1, 4)))).all()
