"""Simulated tasks in PyBullet, behaviour controllers, recording, the ROS 2 bridge."""

from gymnasium.envs.registration import register

register(id="offrl/DiffDriveNav-v0", entry_point="offrl_sim.env:DiffDriveNav")
