"""Open-loop replays of logged commands: by a response model, and by the task's physics.

The response model is the base's chain of ramp, gain, lag and largest acceleration, then the
kinematics of two wheels or of a bicycle, and late by the delay: it knows no tyres. It is fast
enough to be optimised, all windows and several parameters at once, and steady in all of them.
"""

import numpy as np

from offrl_sim.fit.log import Floats
from offrl_sim.fit.problem import RUN_IN, STEPS, Base, Windows
from offrl_sim.physics import STEPS_PER_SECOND, DrivingPhysics
from offrl_sim.profile import Conditions
from offrl_sim.response import Response, gains, kept, lags

_RUN_IN = round(RUN_IN * STEPS_PER_SECOND) - 1
NAMES = ("action_latency", "speed_gain", "steering_gain", "speed_lag")
"""Parameters of the response model, in their order."""


def respond(base: Base, windows: Windows, parameters: Floats) -> Floats:
    """Return forward speed and yaw rate (P, W, M, 2) of windows under parameters (P, 4)."""
    delays, speed_gains, steering_gains, speed_lags = parameters.T
    targets = windows.targets()[:, None]  # (STEPS, 1, W, a)
    gain = np.array(
        [gains(base.roles, *pair) for pair in zip(speed_gains, steering_gains, strict=True)]
    )
    keep = np.array([[kept(lag) for lag in lags(base.roles, driving)] for driving in speed_lags])
    gain, keep = gain[:, None], keep[:, None]  # (P, 1, a)
    ramped, motors = targets[0], _launched(base, windows, gain * targets[0])
    speed = motors[..., base.driving]
    reach, step = base.max_rate / STEPS_PER_SECOND, base.acceleration / STEPS_PER_SECOND
    replayed = np.empty((STEPS, *speed.shape, 2))
    for index in range(STEPS):
        ramped = ramped + np.clip(targets[index] - ramped, -reach, reach)
        goal = gain * ramped
        motors = goal + keep * (motors - goal)
        speed = speed + np.clip(motors[..., base.driving] - speed, -step, step)
        replayed[index, ..., 0] = speed
        replayed[index, ..., 1] = motors[..., base.turning]
    if base.roles[base.turning] == "steering":
        replayed[..., 1] = replayed[..., 0] * np.tan(replayed[..., 1]) / base.wheelbase
    return windows.sampled(replayed, delays)


def _launched(base: Base, windows: Windows, goals: Floats) -> Floats:
    """Return what the motors do at the begin of the run-in (P, W, a): wheels as measured."""
    motors = goals.copy()
    motors[..., base.driving] = windows.launch[:, 0]
    if base.roles[base.turning] == "turning":
        motors[..., base.turning] = windows.launch[:, 1]
    return motors


def simulate(base: Base, windows: Windows, physics: DrivingPhysics, given: Conditions) -> Floats:
    """Return forward speed and yaw rate (W, M, 2) of windows on the task's physics."""
    physics.vary(given.mass, given.friction, given.motor)
    targets = windows.targets(given.action_latency)
    response = Response(base.roles, base.max_rate.tolist(), base.safe.tolist())
    response.begin(given)
    gain = np.array(gains(base.roles, given.speed_gain, given.steering_gain))
    launched = _launched(base, windows, gain * targets[0])
    replayed = np.zeros((STEPS, 1, len(windows), 2))
    for column in range(len(windows)):
        response.ramped = targets[0, column].tolist()
        response.motors = motors = launched[column].tolist()
        physics.launch(motors[base.driving], motors[base.turning])
        for step, target in enumerate(targets[:, column].tolist()):
            if response.step(target):
                physics.drive(*response.motors)
            physics.step()
            if step >= _RUN_IN:
                body = physics.body()
                replayed[step, 0, column] = body.forward, body.turning
    found: Floats = windows.sampled(replayed, np.zeros(1))[0]
    return found
