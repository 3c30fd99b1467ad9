"""Simulated tasks in PyBullet, behaviour controllers, recording, the ROS 2 bridge."""

from gymnasium.envs.registration import register

for _task in ("DiffDriveNav", "RacecarTrack", "PandaReach"):
    register(id=f"offrl/{_task}-v0", entry_point="offrl_sim.env:TaskEnv", kwargs={"task": _task})
