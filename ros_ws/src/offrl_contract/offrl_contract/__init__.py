"""The contract between bag, simulator and robot: robot file, decoding, sampling, expressions."""

from offrl_contract.errors import InputError
from offrl_contract.robot import Robot
from offrl_contract.robot_file import load_robot, robot_from_yaml

__version__ = "0.1.0"

__all__ = ["InputError", "Robot", "__version__", "load_robot", "robot_from_yaml"]
