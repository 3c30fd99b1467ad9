"""Files of other formats that were edited or damaged: one sentence and exit code 2, or no harm."""

import json
from pathlib import Path

import h5py
import pyarrow as arrow
import pytest
from offrl_data.dataset import load_dataset
from pyarrow import parquet

from .datasets import ROBOT, write_dataset
from .test_formats import FORMATS, call, export

DAMAGED = ["", "{", "5", "[]", '{"source": 5}', '{"source": ["a"], "stamp": []}']
ODD = [(1, 1), ("a\0b", 1), ("\ud800", 1), ("a", "x"), ("a", 1e300), ("a", 1 << 80), ("a", None)]


def imported(path: Path, name: str) -> int:
    return call("import", path, "--format", name, "--out", path.parent / "back.h5")


@pytest.mark.parametrize("text", DAMAGED)
def test_d4rl_with_a_damaged_table_of_episodes(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data.h5")
    path = export(tmp_path, "d4rl")
    with h5py.File(path, "r+") as file:
        file.attrs["offrl_episodes"] = text
    assert imported(path, "d4rl") == 2
    assert "its entry 'offrl_episodes' is damaged" in capsys.readouterr().err
    assert not (tmp_path / "back.h5").exists()


@pytest.mark.parametrize(("source", "stamp"), ODD)
def test_d4rl_with_odd_sources_and_stamps(source: object, stamp: object, tmp_path: Path) -> None:
    """Where an episode is from cannot be kept; its rows are."""
    whole = write_dataset(tmp_path / "data.h5")
    path = export(tmp_path, "d4rl")
    with h5py.File(path, "r+") as file:
        file.attrs["offrl_episodes"] = json.dumps({"source": [source] * 3, "stamp": [stamp] * 3})
    assert imported(path, "d4rl") == 0
    back = load_dataset(tmp_path / "back.h5")
    assert (back.observations == whole.observations).all()
    assert (back.sources[1], back.stamps[1]) == (f"{path.name}: episode 1", 0)


def test_lerobot_with_odd_stamps_and_episodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data.h5")
    path = export(tmp_path, "lerobot")
    (file,) = (path / "meta/episodes").glob("*/*.parquet")
    table = parquet.read_table(file)
    at = table.schema.get_field_index("stamp")
    parquet.write_table(table.set_column(at, "stamp", arrow.array([1, None, 3])), file)
    assert imported(path, "lerobot") == 0
    assert load_dataset(tmp_path / "back.h5").stamps.tolist() == [0, 0, 0]
    (file,) = (path / "data").glob("*/*.parquet")
    table = parquet.read_table(file)
    at = table.schema.get_field_index("episode_index")
    names = arrow.array(["a"] * len(table))
    parquet.write_table(table.set_column(at, "episode_index", names), file)
    assert imported(path, "lerobot") == 2
    assert "episode_index holds object, not integers" in capsys.readouterr().err


@pytest.mark.parametrize("name", FORMATS)
def test_an_import_overwrites_nothing_that_it_reads(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data.h5")
    path, robot = export(tmp_path, name), tmp_path / "rover.yaml"
    robot.write_text(ROBOT)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for out in (*files, robot):
        before = out.read_bytes()
        words = ("import", path, "--format", name, "--robot", robot, "--out", out)
        assert call(*words) == 2
        assert f"--out {out}: is a file to read" in capsys.readouterr().err
        assert out.read_bytes() == before


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_list_of_imports(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data.h5")
    with h5py.File(tmp_path / "data.h5", "r+") as file:
        file["metadata"].attrs["imports"] = "5"
    assert imported(export(tmp_path, name), name) == 2
    assert "its entry 'offrl' is damaged" in capsys.readouterr().err


def test_robomimic_whose_next_observations_lack_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last of them would have been taken for where the last transition led."""
    write_dataset(tmp_path / "data.h5")
    path = export(tmp_path, "robomimic")
    with h5py.File(path, "r+") as file:
        for name in list(file["data/demo_2/next_obs"]):
            values = file[f"data/demo_2/next_obs/{name}"][:-1]
            del file[f"data/demo_2/next_obs/{name}"]
            file[f"data/demo_2/next_obs/{name}"] = values
    assert imported(path, "robomimic") == 2
    assert "demo_2/next_obs: 5 rows for 6 of obs" in capsys.readouterr().err
