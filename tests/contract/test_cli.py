"""The dispatcher: its verbs, its errors, its exit codes."""

import subprocess
import sys

import pytest
from offrl_contract.cli import PURPOSES, commands, run


def test_every_verb_of_this_version_is_there() -> None:
    assert set(commands()) >= {"convert", "inspect", "train", "export", "serve", "record"}


@pytest.mark.parametrize("verb", sorted(commands()))
def test_every_verb_has_help(verb: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "offrl_contract.cli", verb, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"offrl {verb}" in done.stdout


def test_a_reader_that_leaves_is_no_error() -> None:
    pipe = subprocess.run(
        f"{sys.executable} -m offrl_contract.cli --help | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert pipe.stderr == ""
    assert pipe.returncode in (0, 141)


def test_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convrt"]) == 2
    assert "unknown verb 'convrt'. Did you mean 'convert'?" in capsys.readouterr().err


def test_inspect_refuses_what_nobody_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "nowhere.h5"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert run(["inspect", __file__]) == 2
    assert "nothing here reads '.py'" in capsys.readouterr().err


def test_help_says_what_each_verb_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands().keys() == PURPOSES.keys()
    assert run(["--help"]) == 0
    assert "  convert   bags to a dataset" in capsys.readouterr().out.splitlines()
