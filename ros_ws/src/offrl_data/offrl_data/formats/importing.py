"""From recordings to one dataset file."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from offrl_contract import InputError, Robot

from offrl_data.dataset import Episode
from offrl_data.dataset_writer import DatasetWriter
from offrl_data.formats.files import IMAGES_PER_COPY, Foreign
from offrl_data.formats.recording import Frames, Piece, Recording, cut, require_lengths


@dataclass
class Outcome:
    """What an import kept and what it changed."""

    episodes: int = 0
    transitions: int = 0
    dropped: int = 0
    """Transitions whose next observation the file does not hold."""
    clipped: int = 0
    """Commands outside the robot's limits."""
    repeated: list[int] = field(default_factory=list)
    """Episodes whose final observation is their last one again: the file does not hold it."""

    def add(self, piece: Piece) -> None:
        """Count an episode that was written."""
        if not piece.final_known:
            self.repeated.append(self.episodes)
        self.episodes += 1
        self.transitions += piece.end - piece.begin
        self.dropped -= piece.end - piece.begin

    def sentences(self) -> list[str]:
        """Return what a user should know beyond the sizes."""
        said = []
        if self.dropped:
            said.append(
                f"{self.dropped} transitions dropped, the last of episodes that no terminal ended: "
                "the file does not hold where they led"
            )
        if self.repeated:
            said.append(
                f"{len(self.repeated)} episodes end in a terminal whose next observation the file "
                "does not hold: the last one is repeated. Learn no dynamics from these transitions"
            )
        if self.clipped:
            said.append(f"{self.clipped} commands outside the limits, clipped to them")
        return said


def import_recordings(foreign: Foreign, name: str, path: Path, out: Path) -> Outcome:
    """Write the dataset file, which appears when it is whole. Raises InputError."""
    try:
        return _write(foreign, name, path, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error}") from error


def _write(foreign: Foreign, name: str, path: Path, out: Path) -> Outcome:
    outcome = Outcome()
    extras: set[str] | None = None
    with DatasetWriter(out, foreign.robot) as writer:
        for recording in foreign.recordings:
            require_lengths(recording)
            extras = _require_alike(recording, extras)
            outcome.dropped += len(recording.rewards)
            for piece in cut(recording):
                writer.append(_within_limits(piece.episode, foreign.robot, outcome))
                for image, frames in recording.frames.items():
                    _append_images(writer, image, frames, piece)
                outcome.add(piece)
        if not outcome.transitions:
            raise InputError(f"{path}: no transitions")
        origin = {
            "format": name,
            "file": path.name,
            "dropped_transitions": outcome.dropped,
            "clipped_commands": outcome.clipped,
            "repeated_final_observations": outcome.repeated,
        }
        imports = [*foreign.metadata.get("imports", []), origin]
        writer.finish(foreign.metadata | {"imports": imports})
    return outcome


def _require_alike(recording: Recording, before: set[str] | None) -> set[str]:
    """Return the extras of a recording. Raises InputError where the one before had others."""
    found = set(recording.frames) | ({"path"} if recording.path is not None else set())
    if before is not None and found != before:
        odd = ", ".join(sorted(found ^ before))
        raise InputError(f"{recording.where}: some episodes have {odd} and some have not")
    return found


def _within_limits(episode: Episode, robot: Robot, outcome: Outcome) -> Episode:
    """Clip commands to the limits, as the converter does, and count them."""
    low, high = np.array(robot.limits, np.float32).T
    outside = (episode.actions < low) | (episode.actions > high)
    outcome.clipped += int(outside.any(axis=1).sum())
    return replace(episode, actions=np.clip(episode.actions, low, high))


def _append_images(writer: DatasetWriter, name: str, frames: Frames, piece: Piece) -> None:
    """Copy the images of one episode, a block at a time."""
    begin, end = frames.start + piece.begin, frames.start + piece.end
    for start in range(begin, end, IMAGES_PER_COPY):
        try:
            rows = frames.rows[start : min(start + IMAGES_PER_COPY, end)]
        except OSError as error:
            raise InputError(f"images of {name} cannot be read: {error}") from error
        writer.append_images(f"images/{name}", rows)
    if frames.final is not None:
        inside = piece.end < piece.length
        final = frames.rows[end : end + 1] if inside else frames.final
        writer.append_images(f"episodes/final_images/{name}", final)
