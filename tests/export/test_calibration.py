"""Gate calibration: ranks by hand, the guarantee by simulation, refusal where data is short."""

import re

import numpy as np
import pytest
from offrl_contract import InputError
from offrl_export.calibration import ASSUMPTION, WINDOWS, calibrate, conformal_rank, cut_windows
from offrl_policy.gate import Gate, GateCalibration, GateSettings, State

NAMES = ("critic_std", "knn")


def episodes(
    generator: np.random.Generator, count: int, length: int = 60, shift: float = 0.0
) -> list[np.ndarray]:
    """Correlated positive scores: each episode has a level of its own, each tick an AR(1) step."""
    made = []
    for _ in range(count):
        level = generator.normal(0.0, 0.3, 2)
        noise = generator.normal(0.0, 1.0, (length, 2))
        for t in range(1, length):
            noise[t] = 0.9 * noise[t - 1] + 0.44 * noise[t]
        made.append(np.exp(0.5 * noise + level + shift))
    return made


def calibration(seed: int, count: int, alpha: float) -> GateCalibration:
    generator = np.random.default_rng(seed)
    return calibrate(
        episodes(generator, 40), episodes(generator, count), NAMES, alpha, 10.0, lambda _: None
    )


def alarms(gate: GateCalibration, new: list[np.ndarray]) -> float:
    """Share of episodes in which the gate itself leaves the policy."""
    count = 0
    for episode in new:
        machine = Gate(gate, GateSettings())
        states = [machine.step(k, tick) for k, tick in enumerate(episode.tolist())]
        count += State.FALLBACK in states
    return count / len(new)


@pytest.mark.parametrize(
    ("count", "alpha", "rank"), [(19, 0.05, 19), (18, 0.05, 19), (99, 0.05, 95), (9, 0.1, 9)]
)
def test_rank_by_hand(count: int, alpha: float, rank: int) -> None:
    assert conformal_rank(count, alpha) == rank


@pytest.mark.parametrize(("count", "alpha"), [(19, 0.05), (60, 0.1), (40, 0.2)])
def test_new_normal_episodes_alarm_at_most_alpha(count: int, alpha: float) -> None:
    """The guarantee is over calibration sets: average over 30 of them, 100 new episodes each."""
    rates = [
        alarms(calibration(seed, count, alpha), episodes(np.random.default_rng([seed, 1]), 100))
        for seed in range(30)
    ]
    error = np.std(rates) / np.sqrt(len(rates))
    assert np.mean(rates) < alpha + 2 * error
    assert np.mean(rates) > alpha / 4  # and not by never alarming


def test_an_episode_that_repeats_does_not_alarm() -> None:
    """What equals the threshold is not above it, however the threshold was rounded."""
    for seed in range(10):
        repeated = episodes(np.random.default_rng(seed), 1)
        references = episodes(np.random.default_rng(99), 40)
        gate = calibrate(references, repeated * 19, NAMES, 0.05, 10.0, lambda _: None)
        assert alarms(gate, repeated) == 0.0


def test_shifted_episodes_alarm() -> None:
    gate = calibration(0, 60, 0.1)
    assert alarms(gate, episodes(np.random.default_rng(9), 50, shift=2.5)) > 0.9


def test_heavy_tail_of_one_score_does_not_blind_the_other() -> None:
    generator = np.random.default_rng(5)

    def heavy_and_steady(count: int) -> list[np.ndarray]:
        peaks = np.exp(generator.normal(0.0, 1.5, count))
        steady = generator.normal(1.0, 0.05, (count, 60))
        return [
            np.stack([peak * generator.uniform(0.5, 1.0, 60), row], axis=1)
            for peak, row in zip(peaks, steady, strict=True)
        ]

    held_out = heavy_and_steady(60)
    gate = calibrate(heavy_and_steady(40), held_out, NAMES, 0.05, 10.0, lambda _: None)
    largest = max(episode[:, 1].max() for episode in held_out)
    assert gate.scores[1].threshold < 1.2 * largest


def test_per_step_thresholds_would_stop_most_normal_episodes() -> None:
    """What calibration on the episode maximum is for: the same data, a 1 % threshold per step."""
    generator = np.random.default_rng(3)
    threshold = np.quantile(np.concatenate(episodes(generator, 100)), 0.99, axis=0)
    stopped = [(e > threshold).any() for e in episodes(generator, 200)]
    assert np.mean(stopped) > 0.25


def test_too_few_episodes_are_refused_with_the_number_missing() -> None:
    with pytest.raises(InputError, match=r"needs 19 held-out episodes, there are 5: 14 are missin"):
        calibration(0, 5, 0.05)


@pytest.mark.parametrize("count", [2, 11])
def test_the_alpha_that_is_advised_is_enough(count: int) -> None:
    with pytest.raises(InputError) as error:
        calibration(0, count, 0.05)
    (advised,) = re.findall(r"use --alpha ([0-9.]+) or more", str(error.value))
    assert calibration(0, count, float(advised)).episodes == count


def test_long_logs_are_cut_into_windows_and_it_is_said() -> None:
    said: list[str] = []
    generator = np.random.default_rng(0)
    gate = calibrate(
        episodes(generator, 10, 600),
        episodes(generator, 4, 3_300),
        NAMES,
        0.1,
        10.0,
        said.append,
    )
    assert said == ["4 held-out episodes: cut into windows of 30 s"]
    assert (gate.window, gate.episodes) == (30.0, 44)
    assert gate.assumption.endswith(WINDOWS)
    lengths = [len(window) for window in cut_windows([np.zeros((7, 2)), np.zeros((2, 2))], 3)]
    assert lengths == [3, 3]


def test_thresholds_hold_for_windows_though_the_cusum_goes_on() -> None:
    """The gate does not begin anew every 30 s: of the logs' own windows at most alpha alarm."""
    generator = np.random.default_rng(0)
    held_out = [slow(generator, 6_000) for _ in range(2)]
    reference = [slow(generator, 6_000) for _ in range(4)]
    gate = calibrate(reference, held_out, NAMES, 0.05, 5.0, lambda _: None)
    alarming, count = 0, 0
    for log in held_out:
        machine = Gate(gate, GateSettings())
        over = []
        for k, tick in enumerate(log.tolist()):
            machine.step(k, tick)
            over.append(max(machine.levels.values()) >= 1.0)
        windows = np.reshape(over, (-1, 150)).any(axis=1)
        alarming, count = alarming + int(windows.sum()), count + len(windows)
    assert count == gate.episodes == 80
    assert alarming <= count - conformal_rank(count, 0.05)


def slow(generator: np.random.Generator, length: int) -> np.ndarray:
    """Scores that wander for tens of ticks."""
    noise = generator.normal(0.0, 1.0, (length, 2))
    for t in range(1, length):
        noise[t] = 0.99 * noise[t - 1] + 0.14 * noise[t]
    return np.exp(0.5 * noise)


def test_drift_between_the_halves_of_a_log_is_seen() -> None:
    """An episode judged by all others would alarm in a tenth of the cases, drift or not."""
    generator = np.random.default_rng(2)
    drifting = episodes(generator, 30) + episodes(generator, 30, shift=1.5)
    gate = calibrate(episodes(generator, 40), drifting, NAMES, 0.1, 10.0, lambda _: None)
    low, _ = gate.false_alarms.interval
    assert low > 0.1
    by_alpha = {each.alpha: each for each in gate.reliability}
    assert list(by_alpha) == [0.05, 0.1, 0.2, 0.3, 0.5]  # thirty episodes allow no less
    assert by_alpha[0.1].rate == gate.false_alarms.rate
    steady = calibration(1, 60, 0.1).reliability
    assert all(each.interval[0] <= each.alpha <= each.interval[1] for each in steady)


def test_false_alarms_are_counted_by_thresholds_of_the_other_half() -> None:
    gate = calibration(1, 60, 0.1)
    assert gate.assumption == ASSUMPTION
    measured = gate.false_alarms
    assert measured.episodes == 60
    low, high = measured.interval
    assert low <= 0.1 <= high
    assert measured.hours == pytest.approx(60 * 60 / 10 / 3600)
    assert measured.per_hour == pytest.approx(measured.alarms / measured.hours)
