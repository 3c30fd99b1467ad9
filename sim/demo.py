"""The whole chain, from recording to a guarded drive: what `make demo` runs.

Records bags of a driver of mixed quality, converts them, trains, exports, starts the policy node
and the simulator as two processes that talk over DDS, drives, and then disturbs the robot in ways
that no bag has shown. Each step is the command that a user would type; its output is in `logs`.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import tyro
from offrl_contract import InputError
from offrl_contract.cli import EXIT_BAD_INPUT
from offrl_sim.diffdrive.picture import Scene, draw_scenes
from offrl_sim.env import TaskEnv
from offrl_sim.evaluate import EpisodeResult, rollout, rollout_behaviour
from offrl_sim.simulation import DisturbanceKind
from offrl_training.run import load_run
from operator_node import Drive, Operator, operator
from rich.console import Console
from rich.table import Table

TEST_SEED = 1_000_000
"""First scenario of the drives; recordings stay far below."""
_BIN = Path(sys.executable).parent
_PICTURED = 2
_SEED_STRIDE = 10_000
_FIRST_LOG = "01_offrl_record.log"  # every demo has one, and nothing else


@dataclass(frozen=True)
class DemoConfig:
    """Record, convert, train, export, and drive behind the gate, in the simulator."""

    out: Path = Path("demo_output")
    """Folder to write; one that an earlier demo wrote is replaced."""
    seed: int = 0
    """Seed of the recordings and of training."""
    episodes: int = 600
    """Episodes to record."""
    steps: int = 8000
    """Training steps of IQL; BC takes half as many."""
    drives: int = 8
    """Undisturbed drives."""
    disturbed: int = 2
    """Drives with each kind of disturbance."""
    speed: float = 1.0
    """Simulated seconds per second while driving. The node's delay grows with it, and to the gate,
    late commands are a change of the robot."""


@dataclass(frozen=True)
class Returns:
    """How a driver did on the test scenarios."""

    returns: list[float]
    successes: int
    collisions: int

    def row(self) -> tuple[str, str, str]:
        """Return the table's cells: return, goals, collisions."""
        count = len(self.returns)
        spread = f"{np.mean(self.returns):.2f} ± {np.std(self.returns) / count**0.5:.2f}"
        return spread, f"{self.successes} of {count}", f"{self.collisions} of {count}"


class Stage:
    """Runs commands, shows them as a user would type them, keeps their output in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.console = Console(highlight=False)
        self.begun = time.monotonic()
        self._count = 0

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        elapsed = time.monotonic() - self.begun
        self.console.print(f"[dim]{elapsed:4.0f} s[/]  {text}", soft_wrap=True)

    def run(self, *commands: Sequence[object]) -> None:
        """Run commands side by side. Raises InputError with the log of one that fails."""
        started = [self.start(command) for command in commands]
        for process, log in started:
            if process.wait() != 0:
                raise InputError(f"exit code {process.returncode}:\n{log.read_text()[-3000:]}")

    def start(self, command: Sequence[object]) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a command; return the process and the file that its output goes to."""
        words = [str(word) for word in command]
        self.say(f"[bold]{' '.join(words)}[/]")
        self._count += 1
        log = self.logs / f"{self._count:02d}_{words[0]}_{words[1].lstrip('-')}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [_BIN / words[0], *words[1:]],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        return process, log


def learn(stage: Stage, config: DemoConfig) -> None:
    """Record, convert, train and export."""
    half = config.episodes // 2
    first = config.seed * _SEED_STRIDE
    stage.run(
        *(
            ("offrl", "record", "--out", f"bags_{part}", "--episodes", half, "--seed", seed)
            for part, seed in (("a", first), ("b", first + half))
        )
    )
    stage.run(("offrl", "convert", "bags_a", "bags_b", "--robot", "diffdrive", "--out", "drive.h5"))
    common = ("--hidden", 128, 128, "--learning-rate", 1e-3, "--seed", config.seed)
    iql = ("--steps", config.steps, *common, "--gamma", 0.98)
    bc = ("--steps", config.steps // 2, *common)
    stage.run(
        ("offrl", "train", "iql", "drive.h5", "--out", "iql", *iql),
        ("offrl", "train", "bc", "drive.h5", "--out", "bc", *bc),
    )
    stage.run(("offrl", "export", "iql", "--data", "drive.h5", "--out", "policy.onnx"))


def compare(stage: Stage, config: DemoConfig) -> dict[str, Returns]:
    """Drive the test scenarios with the logged driver and with its clone, in process."""
    stage.say(f"the logged driver and BC on {config.drives} scenarios that nobody has seen")
    env = TaskEnv("DiffDriveNav")
    clone = load_run(stage.folder / "bc").algorithm

    def act(observation: Any) -> Any:
        with torch.no_grad():
            return clone.act(torch.from_numpy(observation[None]))[0].numpy()

    def summary(results: list[EpisodeResult]) -> Returns:
        return Returns(
            [result.episode_return for result in results],
            sum(result.success for result in results),
            sum(result.collided for result in results),
        )

    behaviour = summary(rollout_behaviour(env, config.drives, TEST_SEED))
    found = {"behaviour": behaviour, "bc": summary(rollout(env, act, config.drives, TEST_SEED))}
    env.close()
    return found


@contextlib.contextmanager
def robot_and_policy(stage: Stage, config: DemoConfig) -> Iterator[Operator]:
    """Start operator, policy node and simulator; end all of them."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.randrange(1, 101)))
    parameters = ("-p", f"seed:={TEST_SEED}", "-p", f"real_time_factor:={config.speed}")
    started = []
    try:
        with operator() as watching:
            started.append(stage.start(("offrl", "serve", "policy.onnx", "--use-sim-time")))
            watching.wait_for_policy()
            command = ("python", "-m", "offrl_sim.bridge", "--ros-args", *parameters)
            started.append(stage.start(command))
            yield watching
    finally:
        for process, _ in started:
            process.send_signal(signal.SIGINT)
        for process, _ in started:
            process.wait(20)


def drive(
    stage: Stage, config: DemoConfig, watching: Operator
) -> tuple[list[Drive], dict[str, list[Drive]]]:
    """Drive undisturbed, then with each disturbance."""
    bar = stage.console.status("")
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        bar.update(f"episode {done}")

    with bar:
        stage.say(f"{config.drives} drives behind the gate, over DDS")
        nominal = watching.watch(config.drives, "", advance)
        disturbed = {}
        for kind in get_args(DisturbanceKind):
            stage.say(f"{config.disturbed} drives with a situation no bag has shown: {kind}")
            disturbed[kind] = watching.watch(config.disturbed, kind, advance)
    return nominal, disturbed


def picture(nominal: list[Drive], disturbed: dict[str, list[Drive]], file: Path) -> None:
    """Draw two undisturbed drives and one of each disturbance."""
    scenes = [
        Scene(each.world, each.path, f"drive {number + 1}", each.states)
        for number, each in enumerate(nominal[:_PICTURED])
    ]
    for kind, drives in disturbed.items():
        each = next((d for d in drives if d.seconds_to_stop() is not None), drives[0])
        stopped = each.first("FALLBACK", each.disturbed_at or 0)
        marks = [(stopped, "gate stops")] if stopped is not None else []
        title = kind.replace("_", " ")
        scenes.append(Scene(each.world, each.path, title, each.states, marks))
    draw_scenes(scenes, file)


def report(
    stage: Stage,
    compared: dict[str, Returns],
    nominal: list[Drive],
    disturbed: dict[str, list[Drive]],
) -> dict[str, Any]:
    """Print the table; return its figures."""
    policy = Returns(
        [each.report["return"] for each in nominal],
        sum(each.report["success"] for each in nominal),
        sum(each.report["collided"] for each in nominal),
    )
    table = Table("driver", "return (mean ± s.e.)", "goal reached", "collided")
    table.add_row("behaviour: who was logged", *compared["behaviour"].row())
    table.add_row("BC: a clone of it", *compared["bc"].row())
    table.add_row("IQL: this policy, gated, over DDS", *policy.row())
    stage.console.print(table)

    false_stops = sum(each.falls_back for each in nominal)
    gate = Table("gate", "stopped", "time to FALLBACK", "time to standing still")
    gate.add_row("undisturbed: false stops", f"{false_stops} of {len(nominal)}", "", "")
    stops: dict[str, list[tuple[float, float]]] = {}
    for kind, drives in disturbed.items():
        stops[kind] = [stop for each in drives if (stop := each.seconds_to_stop()) is not None]
        medians = [
            f"{median:.1f} s" for median in np.median(stops[kind] or [(np.nan,) * 2], axis=0)
        ]
        gate.add_row(kind.replace("_", " "), f"{len(stops[kind])} of {len(drives)}", *medians)
    stage.console.print(gate)
    return {
        **{name: asdict(each) for name, each in compared.items()},
        "policy": asdict(policy),
        "false_stops": false_stops,
        "nominal_episodes": len(nominal),
        "disturbed_episodes": {kind: len(drives) for kind, drives in disturbed.items()},
        "seconds_to_fallback_and_standing": stops,
        "seconds": round(time.monotonic() - stage.begun),
    }


def main(config: DemoConfig) -> None:
    """Run the demo. Raises InputError where a step fails."""
    check(config)
    out = config.out.resolve()
    stage = Stage(out)
    clear(out)
    learn(stage, config)
    compared = compare(stage, config)
    with robot_and_policy(stage, config) as watching:
        nominal, disturbed = drive(stage, config, watching)
    picture(nominal, disturbed, out / "drive.png")
    figures = report(stage, compared, nominal, disturbed)
    (out / "results.json").write_text(json.dumps(figures, indent=1))
    stage.say(f"picture: {config.out}/drive.png, policy file: {config.out}/policy.onnx")


def check(config: DemoConfig) -> None:
    """Refuse what would end in nothing, or in the place of something else. Raises InputError."""
    for name, least in (("episodes", 8), ("steps", 2), ("drives", 1), ("disturbed", 1)):
        if getattr(config, name) < least:
            raise InputError(f"--{name} {getattr(config, name)}: must be {least} or more")
    if not 0.0 < config.speed <= 100.0:
        raise InputError(f"--speed {config.speed:g}: must be above 0 and at most 100")
    if not 0 <= config.seed * _SEED_STRIDE <= TEST_SEED - config.episodes:
        raise InputError(
            f"--seed {config.seed}: must be 0 or more, and small enough that no recording reaches "
            f"the scenarios of the drives, from {TEST_SEED} on"
        )
    first = config.out / "logs" / _FIRST_LOG
    if config.out.exists() and not first.is_file() and not _is_empty(config.out):
        raise InputError(f"--out {config.out}: exists and holds something else than a demo")


def _is_empty(out: Path) -> bool:
    return out.is_dir() and not any(out.iterdir())


def clear(out: Path) -> None:
    """Empty the folder of an earlier demo."""
    shutil.rmtree(out, ignore_errors=True)
    (out / "logs").mkdir(parents=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(DemoConfig))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
