"""Camera images: every encoding to pixels, the image of each tick, damage without a crash."""

import io
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from offrl_contract import robot_from_yaml
from offrl_contract.reader import MalformedMessageError
from offrl_contract.robot import ImageTerm
from offrl_data.conversion import convert_bags
from offrl_data.dataset import load_dataset
from offrl_data.images import decode_image
from offrl_data.storage import chunked
from PIL import Image
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer

from .conftest import KIND, ROBOT, STORE, STORE1

PLAIN, PACKED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA = ROBOT + (
    "images:\n  - {name: camera, topic: /camera, type: TYPE, size: [4, 6], max_age: 0.15}\n"
)


def term(**given: Any) -> ImageTerm:
    return ImageTerm(
        **({"name": "camera", "topic": "/camera", "type": PLAIN, "size": (2, 2)} | given)
    )


def message(pixels: np.ndarray, encoding: str, pad: int = 0, big: bool = False) -> Any:
    """An Image message whose rows are followed by `pad` bytes."""
    rows = pixels.reshape(len(pixels), -1)
    data = np.hstack([rows.view(np.uint8), np.full((len(rows), pad), 0xAA, np.uint8)])
    return SimpleNamespace(
        height=len(pixels),
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(big),
        step=data.shape[1],
        data=data.reshape(-1),
    )


RED_BLUE = np.array([[[255, 0, 0], [0, 0, 255]], [[255, 0, 0], [0, 0, 255]]], np.uint8)


@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RED_BLUE),
        ("bgr8", np.ascontiguousarray(RED_BLUE[:, :, ::-1])),
        ("rgba8", np.dstack([RED_BLUE, np.full((2, 2), 9, np.uint8)])),
        ("bgra8", np.dstack([RED_BLUE[:, :, ::-1], np.full((2, 2), 9, np.uint8)])),
    ],
)
@pytest.mark.parametrize("pad", [0, 5])
def test_colors_of_every_encoding(encoding: str, pixels: np.ndarray, pad: int) -> None:
    assert (decode_image(term(), message(pixels, encoding, pad)) == RED_BLUE).all()


def test_gray_of_red_is_its_luminance() -> None:
    found = decode_image(term(color="gray"), message(RED_BLUE, "rgb8"))
    assert found.shape == (2, 2, 1)
    assert found[0, 0, 0] == 76  # 0.299 x 255, ITU-R 601


@pytest.mark.parametrize("big", [False, True])
def test_depth_is_scaled_to_its_range(big: bool) -> None:
    depth = np.array([[0, 1000], [2000, 9000]], ">u2" if big else "<u2")
    found = decode_image(term(color="gray", range=(0, 2000)), message(depth, "16UC1", big=big))
    assert found[:, :, 0].tolist() == [[0, 128], [255, 255]]
    meters = np.array([[0.5, np.nan], [np.inf, -1.0]], np.float32)
    found = decode_image(term(color="gray", range=(0, 1)), message(meters, "32FC1"))
    assert found[:, :, 0].tolist() == [[128, 255], [255, 0]]


def test_shrinking_averages() -> None:
    pixels = np.array([[[0], [100]], [[100], [200]]], np.uint8)
    assert decode_image(term(size=(1, 1), color="gray"), message(pixels, "mono8")).item() == 100


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ({"encoding": "bayer_rggb8"}, "encoding 'bayer_rggb8' is not known"),
        ({"step": 2}, "rows of 6 bytes, 2 apart"),
        ({"height": 2**31}, "rows of 6 bytes"),
        ({"width": 0}, "rows of 0 bytes"),
        ({"encoding": "mono16"}, "wider than 8 bit need `range`"),
    ],
)
def test_images_that_cannot_be_read(damage: dict[str, Any], sentence: str) -> None:
    broken = message(RED_BLUE, "rgb8")
    vars(broken).update(damage)
    with pytest.raises(MalformedMessageError, match=sentence):
        decode_image(term(), broken)


def packed(pixels: np.ndarray, kind: str) -> np.ndarray:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return np.frombuffer(out.getvalue(), np.uint8)


def camera_log(path: Path, kind: str, storage: StoragePlugin) -> Path:
    """An image every 50 ms whose gray counts; the 12th is damaged."""
    types = STORE.types
    vector = types["geometry_msgs/msg/Vector3"]
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](0, 0), "")
    with Writer(path, version=9, storage_plugin=storage) as writer:
        kinds = {"/pose": KIND, "/cmd": KIND, "/camera": kind}
        topics = {t: writer.add_connection(t, k, typestore=STORE) for t, k in kinds.items()}
        for k in range(60):
            at = 10**11 + k * 50_000_000
            twist = types[KIND](vector(k / 20, 0.0, 0.0), vector(0.0, 0.0, 0.0))
            for topic in ("/pose", "/cmd"):
                writer.write(topics[topic], at, STORE.serialize_cdr(twist, KIND))
            pixels = np.full((8, 12, 3), 4 * k, np.uint8)
            if kind == PLAIN:
                encoding = "unknown" if k == 12 else "rgb8"
                image = types[kind](header, 8, 12, encoding, 0, 36, pixels.reshape(-1))
            else:
                data = packed(pixels, "PNG")
                image = types[kind](header, "png", data[:40] if k == 12 else data)
            writer.write(topics["/camera"], at, STORE.serialize_cdr(image, kind))
    return path


def test_a_png_of_16_bit_is_scaled_to_its_range() -> None:
    depth = packed(np.array([[0, 1000], [2000, 9000]], np.uint16), "PNG")
    image = SimpleNamespace(format="16UC1; png compressed", data=depth)
    found = decode_image(term(type=PACKED, color="gray", range=(0, 2000)), image)
    assert found[:, :, 0].tolist() == [[0, 128], [255, 255]]
    with pytest.raises(MalformedMessageError, match="wider than 8 bit need `range`"):
        decode_image(term(type=PACKED), image)


def two_cameras(path: Path) -> Path:
    """A pose each 50 ms that counts, and an image that does, of two senders in turn, with pauses.

    Each has a connection of its own, and a chunk holds about 20 poses: some have no image.
    """
    types = STORE1.types
    vector = types["geometry_msgs/msg/Vector3"]
    header = types["std_msgs/msg/Header"](0, types["builtin_interfaces/msg/Time"](0, 0), "")
    bag = Writer1(path)
    bag.chunk_threshold = 1 << 12
    with bag:
        topics = {t: bag.add_connection(t, KIND, typestore=STORE1) for t in ("/pose", "/cmd")}
        cameras = [
            bag.add_connection("/camera", PLAIN, typestore=STORE1, callerid=f"/camera{n}")
            for n in range(2)
        ]
        for k in range(250):
            at = 10**11 + k * 50_000_000
            twist = types[KIND](vector(float(k), 0.0, 0.0), vector(0.0, 0.0, 0.0))
            for topic in topics.values():
                bag.write(topic, at, STORE1.serialize_ros1(twist, KIND))
            if k % 80 < 30:
                image = types[PLAIN](header, 1, 1, "mono8", 0, 1, np.array([k], np.uint8))
                bag.write(cameras[k % 2], at, STORE1.serialize_ros1(image, PLAIN))
    return path


@pytest.mark.parametrize("together", [1 << 23, 3000, 10_000])
def test_images_of_two_senders(
    together: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many chunks are read at once, the images are those of their ticks."""
    monkeypatch.setattr(chunked, "_READ_TOGETHER", together)
    text = CAMERA.replace("TYPE", PLAIN).replace("[4, 6]", "[1, 1], color: gray")
    robot = robot_from_yaml(text.replace("next_pose_1 > 0.5", "False"), "test")
    convert_bags([two_cameras(tmp_path / "bag.bag")], robot, tmp_path / "data.h5")
    poses = load_dataset(tmp_path / "data.h5").observations[:, 0]
    with h5py.File(tmp_path / "data.h5") as file:
        seen = file["images/camera"][:, 0, 0, 0]
    assert len(seen) > 40
    assert np.abs(seen - poses).max() <= 3.0  # of max_age


@pytest.mark.parametrize("kind", [PLAIN, PACKED])
@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_each_row_has_the_image_of_its_tick(
    kind: str, storage: StoragePlugin, tmp_path: Path
) -> None:
    path = camera_log(tmp_path / "log", kind, storage)
    robot = robot_from_yaml(CAMERA.replace("TYPE", kind), "camera.yaml")
    out = tmp_path / "data.h5"
    (report,) = convert_bags([path], robot, out)
    data = load_dataset(out)
    assert report.dropped["camera: not finite"] == 1
    assert any("1 images cannot be decoded" in line for line in report.losses)
    assert data.lengths.tolist() == [5, 22]
    assert data.images == {"camera": (4, 6, 3)}
    shown = np.rint(data.observations[:, 0] * 20).astype(int)  # the pose counts as the image does
    last = np.rint(data.final_observations[:, 0] * 20).astype(int)
    with h5py.File(out) as file:
        assert file["images/camera"].compression == "gzip"
        assert (file["images/camera"][()] == 4 * shown[:, None, None, None]).all()
        assert (file["episodes/final_images/camera"][()] == 4 * last[:, None, None, None]).all()
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_is_an_error_sentence(tmp_path: Path) -> None:
    """The largest size of a file stands for the disk."""
    path = camera_log(tmp_path / "log", PLAIN, StoragePlugin.MCAP)
    robot = tmp_path / "camera.yaml"
    robot.write_text(CAMERA.replace("TYPE", PLAIN).replace("[4, 6]", "[64, 64]"))
    command = [sys.executable, "-m", "offrl_contract.cli", "convert", str(path)]
    run = subprocess.run(
        [*command, "--robot", str(robot), "--out", str(tmp_path / "data.h5")],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert run.returncode == 2, run.stderr
    assert "data.h5: cannot be written" in run.stderr
