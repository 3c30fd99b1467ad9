import numpy as np
import pytest
from offrl_contract import InputError
from offrl_sim.commands import sim
from offrl_sim.drive import drive
from offrl_sim.env import TaskEnv
from offrl_sim.evaluate import rollout_behaviour
from offrl_sim.picture import FFMpegWriter, placed
from offrl_sim.sketches import SKETCHES
from offrl_sim.tasks import TASKS
from PIL import Image, ImageChops

SHORT = {"DiffDriveNav": 0, "RacecarTrack": 0, "PandaReach": 1}
"""A scenario of each task that is soon over."""


def test_every_task_can_be_drawn():
    assert set(SKETCHES) == set(TASKS) == set(SHORT)


@pytest.mark.parametrize("task", TASKS)
def test_picture_and_video_show_the_episode(task, tmp_path, capsys):
    picture, video = tmp_path / "drive.png", tmp_path / "drive.gif"
    seed = SHORT[task]
    sim(["drive", task, "--seed", str(seed), "--picture", str(picture), "--video", str(video)])
    assert f"{task}, scenario {seed}: " in capsys.readouterr().out
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["drive.gif", "drive.png"]
    with Image.open(picture) as image:
        assert min(image.size) > 400
    env = TaskEnv(task)
    trace = drive(env, seed)
    with Image.open(video) as film:
        seconds = film.info["duration"] * (film.n_frames - 1) / 1000
        assert seconds == pytest.approx(trace.seconds, abs=0.15)
        first = film.convert("RGB")
        film.seek(film.n_frames - 1)
        changed = ImageChops.difference(first, film.convert("RGB"))
    assert (np.asarray(changed).max(axis=2) > 50).mean() > 0.001
    (result,) = rollout_behaviour(env, 1, seed)
    env.close()
    np.testing.assert_array_equal(trace.places[:, :2], result.path)
    assert trace.rewards.sum() == pytest.approx(result.episode_return)
    assert (trace.success, trace.collided) == (result.success, result.collided)


@pytest.mark.skipif(not FFMpegWriter.isAvailable(), reason="ffmpeg is not installed")
def test_video_as_mp4(tmp_path):
    video = tmp_path / "drive.mp4"
    sim(["drive", "PandaReach", "--seed", str(SHORT["PandaReach"]), "--video", str(video)])
    assert video.read_bytes()[4:8] == b"ftyp"
    assert [entry.name for entry in tmp_path.iterdir()] == ["drive.mp4"]


def test_points_of_the_robot_are_turned_and_moved_by_hand():
    points = placed(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([5.0, 5.0]), np.pi / 2)
    np.testing.assert_allclose(points, [[5.0, 6.0], [3.0, 5.0]])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["RacecarTrak"], "Did you mean 'RacecarTrack'"),
        (["RacecarTrack", "--video", "film.avi"], "must end in .gif or .mp4"),
        (["PandaReach", "--picture", "/nowhere/film.png"], "/nowhere/film.png: cannot be written"),
        (["PandaReach", "--picture", "."], ".: cannot be written"),
        (["PandaReach", "--picture", f"{__file__}/film.png"], "cannot be written: Not a directory"),
        (["PandaReach", "--picture", f"{'n' * 250}.png"], "cannot be written: File name too long"),
        (["RacecarTrack", "--profile", "/none.yaml"], "/none.yaml"),
    ],
)
def test_what_cannot_be_drawn_is_refused(words, sentence):
    with pytest.raises(InputError, match=sentence):
        sim(["drive", *words])


def test_a_video_that_needs_ffmpeg_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(FFMpegWriter, "isAvailable", lambda: False)
    with pytest.raises(InputError, match=r"apt-get install ffmpeg, or give a \.gif"):
        sim(["drive", "PandaReach", "--video", str(tmp_path / "film.mp4")])
