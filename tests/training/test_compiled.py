"""`--compile`: the same steps by another program."""

import copy
import sysconfig
from pathlib import Path

import pytest
import torch
import torch._inductor.config
from offrl_contract import InputError
from offrl_data.dataset import Dataset

from .test_algorithms import differing
from .test_trainer import trainer


@pytest.mark.parametrize("name", ["iql", "td3"])  # a step size that falls; random numbers
def test_compiled_steps_are_those_of_the_algorithm(name: str, dataset: Dataset) -> None:
    found = []
    for compiled in (False, True):
        made = trainer(name, dataset, compile=compiled)
        for _ in range(20):
            made.advance()
        found.append({key: float(value) for key, value in made.take_metrics().items()})
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-5)


def test_a_compiled_run_resumes_to_the_last_bit(dataset: Dataset) -> None:
    straight = trainer("bc_gaussian", dataset, compile=True)
    for _ in range(10):
        straight.advance()
    saved = copy.deepcopy(straight.state())
    for _ in range(10):
        straight.advance()
    resumed = trainer("bc_gaussian", dataset, compile=True)
    resumed.restore(saved)
    for _ in range(10):
        resumed.advance()
    for part in ("algorithm", "gate_critics"):
        assert differing(straight.state()[part], resumed.state()[part]) == []


def test_what_compilation_lacks_is_named(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(InputError, match=r"Python\.h is missing; apt-get install python3-dev"):
        trainer("bc", dataset, compile=True)
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(InputError, match="no C\\+\\+ compiler; apt-get install g\\+\\+"):
        trainer("bc", dataset, compile=True)
