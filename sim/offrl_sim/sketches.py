"""Who draws the episodes of each task."""

from offrl_sim.diffdrive.picture import DiffDriveSketch
from offrl_sim.panda.picture import PandaSketch
from offrl_sim.picture import Sketch
from offrl_sim.racecar.picture import RacecarSketch

SKETCHES: dict[str, type[Sketch]] = {
    "DiffDriveNav": DiffDriveSketch,
    "RacecarTrack": RacecarSketch,
    "PandaReach": PandaSketch,
}
