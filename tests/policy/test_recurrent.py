"""Recurrent policies: memory from tick to tick, and where it begins anew."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from offrl_contract import InputError
from offrl_policy.controller import Controller, Settings
from offrl_policy.gate import GateSettings, State
from offrl_policy.policy_file import Policy
from offrl_policy.signature import seal
from recurrent import GruPolicy, write_gru_policy

from .rig import TICK, Rig

NETWORK = GruPolicy()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gru_policy(tmp_path_factory.mktemp("gru") / "gru.onnx", NETWORK)


class Listener(Rig):
    """A rig that notes what the network was asked, and what it answered."""

    def __init__(self, path: Path) -> None:
        settings = Settings(blend_time=0.0, gate=GateSettings(dwell=0.1, latch=False))
        super().__init__(Controller(Policy(path), settings))
        self.seen: list[np.ndarray] = []
        self.said: list[np.ndarray] = []
        ask = self.controller.policy.run

        def run(observation, memory):
            answer = ask(observation, memory)
            self.seen.append(observation)
            self.said.append(answer.action)
            return answer

        self.controller.policy.run = run  # type: ignore[method-assign]


def require_episodes(rig: Listener, *begins: int) -> None:
    """The answers are those of torch, unrolled over episodes that begin at these calls."""
    for begin, end in zip(begins, (*begins[1:], len(rig.seen)), strict=True):
        expected = NETWORK.unrolled(np.array(rig.seen[begin:end]))
        np.testing.assert_allclose(rig.said[begin:end], expected, atol=1e-6)


def test_ticks_are_the_unrolled_network(path: Path) -> None:
    rig = Listener(path)
    rig.ticks(21)  # the first has no last action yet, and does not ask
    assert len(rig.seen) == 20
    require_episodes(rig, 0)
    assert len(np.unique(np.round(rig.said, 5), axis=0)) > 5  # it remembers: no two are alike


def test_memory_begins_anew_after_stop(path: Path) -> None:
    rig = Listener(path)
    rig.ticks(11)
    assert rig.tick(x=float("nan")).state is State.STOP
    rig.ticks(5)
    require_episodes(rig, 0, 10)


def test_memory_begins_anew_after_activation_and_after_a_jump_of_the_clock(path: Path) -> None:
    rig = Listener(path)
    rig.ticks(6)
    rig.controller.gate.stop("just activated")
    rig.ticks(5)
    require_episodes(rig, 0, 5)
    rig.now -= 100 * TICK
    assert rig.controller.clock_jumped_back(rig.now)
    rig.ticks(6)
    require_episodes(rig, 0, 5, 10)


def test_fallback_remembers_and_memory_begins_anew_when_it_is_left(path: Path) -> None:
    rig = Listener(path)
    rig.ticks(6)
    assert rig.tick(x=4.0).state is State.FALLBACK
    states = [rig.tick().state for _ in range(30)]
    left = states.index(State.NOMINAL)
    assert left > 0
    assert set(states[left:]) == {State.NOMINAL}
    require_episodes(rig, 0, 5 + 1 + left + 1)  # the answer of that tick is the last of the old


def test_memory_that_is_not_finite_stops(path: Path) -> None:
    rig = Rig(Controller(Policy(path), Settings()))
    rig.ticks(5)
    run = rig.controller.policy.run
    poison = (np.full((1, 6), np.inf, np.float32),)
    rig.controller.policy.run = lambda *a: run(*a)._replace(memory=poison)  # type: ignore
    bad = rig.tick()
    assert (bad.state, bad.reason) == (State.STOP, "policy: output not finite")
    rig.controller.policy.run = run  # type: ignore[method-assign]
    assert rig.tick().state is State.NOMINAL


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("next_state_gru", "other", "its robot file says"),
        ("state_gru", "memory", "its robot file says"),
    ],
)
def test_memory_without_its_other_end_is_refused(
    old: str, new: str, sentence: str, path: Path, tmp_path: Path
) -> None:
    model = onnx.load(path)
    del model.metadata_props[-1]
    names = [*model.graph.input, *model.graph.output]
    next(each for each in names if each.name == old).name = new
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    (tmp_path / "p.onnx").write_bytes(seal(model.SerializeToString()))
    with pytest.raises(InputError, match=sentence):
        Policy(tmp_path / "p.onnx")
