"""Simulated tasks in PyBullet, behaviour controllers, recording, the ROS 2 bridge."""
