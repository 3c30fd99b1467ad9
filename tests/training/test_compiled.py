"""`--compile`: the same steps by another program."""

import copy
import sysconfig
from pathlib import Path

import pytest
import torch
import torch._inductor.config
from offrl_contract import InputError
from offrl_data.dataset import Dataset
from offrl_training.run import load_run

from .test_algorithms import differing
from .test_train_cli import train
from .test_trainer import trainer


# A step size that falls; random numbers; td3's `update`, of which there is a program already.
@pytest.mark.parametrize("name", ["iql", "td3", "td3_bc"])
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
    missing = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    with missing, pytest.raises(InputError, match=r"no C\+\+ compiler; apt-get install g\+\+"):
        trainer("bc", dataset, compile=True)


def test_the_command_says_that_it_compiles(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--steps", 4, "--hidden", 8, "--out", tmp_path / "run", "--compile"]
    assert train("bc", path, *words) == 0
    assert "compiling the first steps" in capsys.readouterr().out
    assert load_run(tmp_path / "run").algorithm.updates == 4
