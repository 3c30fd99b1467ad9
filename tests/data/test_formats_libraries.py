"""What the formats' own libraries read from our exports.

`minari` and `datasets` (with pandas: LeRobot's readers) are in the extra `dev`. Others cannot be:
d3rlpy 2.8.1 asks for gymnasium 1.0.0 exactly; robomimic and lerobot for torchvision, whose wheel
does not load beside the CPU build of torch; lerobot 0.4.4 for packaging < 26. Their tests run where
somebody has installed them with `pip install --no-deps`.
"""

import importlib.util
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
from offrl_contract.cli import run
from offrl_data.dataset import Dataset

from .datasets import LENGTHS, TERMINAL, write_dataset

KEPT: list[Any] = []
"""The declared operators, which live as long as their declaration."""
NO_DEPS = "conflicts with our pins; install it with --no-deps to run this test"


@pytest.fixture
def ours(tmp_path: Path) -> Dataset:
    return write_dataset(tmp_path / "data.h5")


def export(folder: Path, name: str, out: str) -> Path:
    words = ["dataset", "export", folder / "data.h5", "--format", name, "--out", folder / out]
    assert run(list(map(str, words))) == 0
    return folder / out


def optional(name: str) -> ModuleType:
    """Import a library that `dev` cannot have."""
    pytest.importorskip(name.partition(".")[0], reason=NO_DEPS)
    return importlib.import_module(name)


@pytest.fixture
def torchvision() -> None:
    """Declare the two operators that torchvision's Python expects of its compiled part.

    Its wheel is built for CUDA and does not load beside the CPU build of torch; only its image
    transforms are needed, which are Python.
    """
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip(f"torchvision: {NO_DEPS}")
    if not KEPT:
        KEPT.append(torch.library.Library("torchvision", "FRAGMENT"))
        for operator in ("nms", "qnms"):
            KEPT[0].define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")


def test_minari_loads_by_id(ours: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    export(tmp_path, "minari", "rover-v0")
    (tmp_path / "root").mkdir()
    (tmp_path / "rover-v0").rename(tmp_path / "root" / "rover-v0")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    loaded = minari.load_dataset("rover-v0")
    assert list(minari.list_local_datasets()) == ["rover-v0"]
    assert (loaded.total_episodes, loaded.total_steps) == (len(LENGTHS), len(ours))
    low, high = np.array(ours.robot.limits, np.float32).T
    np.testing.assert_array_equal(loaded.action_space.low, low)
    np.testing.assert_array_equal(loaded.action_space.high, high)
    assert loaded.observation_space.low.tolist() == [-9, -9, -np.inf]
    for index, episode in enumerate(loaded.iterate_episodes()):
        mine = ours.episode(index)
        np.testing.assert_array_equal(episode.observations, mine.observations)
        np.testing.assert_array_equal(episode.actions, mine.actions)
        np.testing.assert_array_equal(episode.rewards, mine.rewards)
        np.testing.assert_array_equal(episode.infos["path"], mine.path)
        assert bool(episode.terminations[-1]) == mine.terminal
        assert bool(episode.truncations[-1]) != mine.terminal
        assert episode.terminations.sum() + episode.truncations.sum() == 1
        assert loaded.observation_space.contains(episode.observations[0])
        assert loaded.action_space.contains(episode.actions[0])
    about = next(iter(loaded.storage.get_episode_metadata([2])))
    assert (about["source"], about["total_steps"]) == ("bag_2", LENGTHS[2])


def test_minari_images_are_not_compressed(tmp_path: Path) -> None:
    minari = pytest.importorskip("minari")
    write_dataset(tmp_path / "data.h5", images=True)
    out = export(tmp_path, "minari", "rover-v0")
    loaded = minari.MinariDataset(out / "data")
    with h5py.File(tmp_path / "data.h5") as file:
        first = file["images/cam"][: LENGTHS[0]]
    np.testing.assert_array_equal(loaded[0].infos["images"]["cam"][:-1], first)


def test_what_minari_writes_comes_in(
    ours: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = pytest.importorskip("minari")
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer
    from offrl_data.dataset import load_dataset

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    buffers = [
        EpisodeBuffer(
            observations=ours.episode(index).observations,
            actions=ours.episode(index).actions,
            rewards=ours.episode(index).rewards,
            terminations=ours.terminals[start : start + length],
            truncations=ours.timeouts[start : start + length],
        )
        for index, (start, length) in enumerate(zip(ours.starts, ours.lengths, strict=True))
    ]
    with pytest.warns(UserWarning, match="is set to None"):
        minari.create_dataset_from_buffers(
            "theirs-v0",
            buffers,
            observation_space=Box(-np.inf, np.inf, (3,)),
            action_space=Box(-2, 2, (2,)),
        )
    (tmp_path / "rover.yaml").write_text(ours.robot.to_yaml())
    words = ["dataset", "import", tmp_path / "root" / "theirs-v0", "--format", "minari"]
    words += ["--out", tmp_path / "back.h5", "--robot", tmp_path / "rover.yaml"]
    assert run(list(map(str, words))) == 0
    assert load_dataset(tmp_path / "back.h5").digest == ours.digest


def d4rl_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array by its key, as D4RL's `get_dataset` finds them."""
    found: dict[str, np.ndarray] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_d4rl_convention(ours: Dataset, tmp_path: Path) -> None:
    """Its `sequence_dataset` walks all arrays row by row: each must have N rows.

    The `d4rl` package is not on PyPI; this follows its documented convention.
    """
    flat = d4rl_arrays(export(tmp_path, "d4rl", "flat.hdf5"))
    assert {len(values) for values in flat.values()} == {len(ours)}
    assert not (flat["terminals"] & flat["timeouts"]).any()
    ends = np.flatnonzero(flat["terminals"] | flat["timeouts"])
    assert (np.diff([-1, *ends])).tolist() == list(LENGTHS)
    inside = np.setdiff1d(np.arange(len(ours) - 1), ends)
    np.testing.assert_array_equal(
        flat["next_observations"][inside], flat["observations"][inside + 1]
    )
    np.testing.assert_array_equal(flat["next_observations"][ends], ours.final_observations)


def test_d3rlpy_reads_d4rl(ours: Dataset, tmp_path: Path) -> None:
    """As d3rlpy's own `get_d4rl` does, from the arrays on."""
    library = optional("d3rlpy")
    flat = d4rl_arrays(export(tmp_path, "d4rl", "flat.hdf5"))
    names = ("observations", "actions", "rewards", "terminals", "timeouts")
    data = library.dataset.MDPDataset(**{name: flat[name] for name in names})
    # an episode of one transition that a timeout ended has no transition for d3rlpy
    kept = [e for e, length in enumerate(LENGTHS) if length > 1 or TERMINAL[e]]
    assert len(data.episodes) == len(kept) == 2
    for index, episode in zip(kept, data.episodes, strict=True):
        mine = ours.episode(index)
        np.testing.assert_array_equal(episode.observations, mine.observations[:-1])
        np.testing.assert_array_equal(episode.actions, mine.actions)
        assert episode.terminated == mine.terminal
        # it drops the last transition of an episode that a timeout ended
        assert episode.transition_count == len(mine.rewards) - (not mine.terminal)


def test_robomimic_reads_sequences(ours: Dataset, tmp_path: Path) -> None:
    library = optional("robomimic.utils.dataset")
    observations = importlib.import_module("robomimic.utils.obs_utils")
    out = export(tmp_path, "robomimic", "demo.hdf5")
    observations.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["pose", "turn"]}})
    data = library.SequenceDataset(
        hdf5_path=str(out),
        obs_keys=("pose", "turn"),
        dataset_keys=("actions", "rewards", "dones"),
        load_next_obs=True,
    )
    assert (data.n_demos, len(data)) == (len(LENGTHS), len(ours))
    low, high = np.array(ours.robot.limits).T
    for index in range(len(ours)):
        item = data[index]
        seen = np.concatenate([item["obs"]["pose"][0], item["obs"]["turn"][0]])
        led = np.concatenate([item["next_obs"]["pose"][0], item["next_obs"]["turn"][0]])
        np.testing.assert_array_equal(seen, ours.observations[index])
        np.testing.assert_array_equal(led, ours.next_observations[index])
        si = low + (item["actions"][0] + 1) / 2 * (high - low)
        np.testing.assert_allclose(si, ours.actions[index], atol=1e-6)
        assert np.abs(item["actions"]).max() <= 1
        assert item["dones"][0] == ours.terminals[index]


@pytest.mark.usefixtures("torchvision")
def test_robomimic_accepts_the_file(
    ours: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its `get_dataset_info` raises for actions outside [-1, 1]."""
    pytest.importorskip("robomimic", reason=NO_DEPS)
    out = export(tmp_path, "robomimic", "demo.hdf5")
    files = importlib.import_module("robomimic.utils.file_utils")
    assert files.get_env_metadata_from_dataset(str(out))["env_name"] == "rover"
    observations = importlib.import_module("robomimic.utils.obs_utils")
    observations.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["pose", "turn"]}})
    shapes = files.get_shape_metadata_from_dataset(str(out), all_obs_keys=["pose", "turn"])
    assert shapes["ac_dim"] == 2
    assert dict(shapes["all_shapes"]) == {"pose": [2], "turn": [1]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["get_dataset_info", "--dataset", str(out)])
        runpy.run_module("robomimic.scripts.get_dataset_info", run_name="__main__")
    assert f"total transitions: {len(ours)}" in capsys.readouterr().out


def test_lerobot_tables(ours: Dataset, tmp_path: Path) -> None:
    """LeRobot reads its tables with `datasets` and pandas: the same calls, the same features."""
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    out = export(tmp_path, "lerobot", "frames")
    tasks = pandas.read_parquet(out / "meta/tasks.parquet")
    assert tasks.iloc[0].name == "rover"
    assert tasks["task_index"].tolist() == [0]
    info = json.loads((out / "meta/info.json").read_text())
    features = datasets.Features()
    for key, feature in info["features"].items():
        value = datasets.Value(feature["dtype"])
        (size,) = feature["shape"]
        features[key] = value if size == 1 else datasets.Sequence(value, length=size)
    paths = [str(path) for path in (out / "data").glob("*/*.parquet")]
    cache = str(tmp_path / "cache")
    frames = datasets.Dataset.from_parquet(paths, features=features, cache_dir=cache)
    frames = frames.with_format("numpy")
    np.testing.assert_array_equal(frames["observation.state"][:], ours.observations)
    np.testing.assert_array_equal(frames["action"][:], ours.actions)
    np.testing.assert_array_equal(frames["next.done"][:], ours.terminals)
    episodes = pandas.read_parquet(out / "meta/episodes/chunk-000/file-000.parquet")
    assert episodes["length"].tolist() == list(LENGTHS)
    assert episodes["dataset_to_index"].tolist() == np.cumsum(LENGTHS).tolist()
    stats = json.loads((out / "meta/stats.json").read_text())
    np.testing.assert_allclose(stats["action"]["mean"], ours.actions.mean(axis=0), rtol=1e-5)


@pytest.mark.usefixtures("torchvision")
def test_lerobot_dataset(ours: Dataset, tmp_path: Path) -> None:
    library = optional("lerobot.datasets.lerobot_dataset")
    out = export(tmp_path, "lerobot", "frames")
    data = library.LeRobotDataset("local/frames", root=out, delta_timestamps={"action": [0.0, 0.1]})
    assert (data.num_episodes, data.num_frames, data.fps) == (len(LENGTHS), len(ours), 10)
    lasts = set((ours.starts + ours.lengths - 1).tolist())
    for index in range(len(ours)):
        item = data[index]
        np.testing.assert_array_equal(item["observation.state"], ours.observations[index])
        np.testing.assert_array_equal(item["next.observation.state"], ours.next_observations[index])
        np.testing.assert_array_equal(item["action"][0], ours.actions[index])
        assert item["action_is_pad"].tolist() == [False, index in lasts]
        assert float(item["next.reward"]) == ours.rewards[index]
        assert bool(item["next.done"]) == ours.terminals[index]
        assert bool(item["next.truncated"]) == ours.timeouts[index]
        assert item["task"] == "rover"
    utils = importlib.import_module("lerobot.datasets.utils")
    policy = utils.dataset_to_policy_features(data.meta.features)
    assert set(policy) == {"observation.state", "action"}
    computed = importlib.import_module("lerobot.datasets.compute_stats").get_feature_stats(
        ours.observations, axis=0, keepdims=False
    )
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(
            data.meta.stats["observation.state"][name], computed[name], rtol=1e-4, atol=1e-5
        )
