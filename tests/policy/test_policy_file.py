"""The policy file: loads, checks itself, and refuses what is wrong with one sentence."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from offrl_contract import InputError
from offrl_contract.cli import run
from offrl_policy.policy_file import Policy
from offrl_policy.signature import seal
from support import calibration, golden, network, write_policy


def test_a_good_file_loads_and_passes_its_self_check(tmp_path: Path) -> None:
    policy = Policy(write_policy(tmp_path / "p.onnx"))
    policy.self_check()
    action, scores, memory = policy.run(np.array([0, 0, 0, 0, 0.4, -0.6, 0, 0], np.float32))
    np.testing.assert_allclose(action, [0.5, 0.25])
    np.testing.assert_allclose(scores, [0.2, 0.3])
    assert memory == ()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"actions": [0.501, 0.25]}, r"golden vectors differ by 0\.0005 of the action range"),
        ({"uncertainties": [0.0, 0.02]}, r"golden vectors differ by 0\.02 of a score's threshold"),
    ],
)
def test_golden_vectors_that_differ_are_refused(
    rows: dict[str, list[float]], sentence: str, tmp_path: Path
) -> None:
    policy = Policy(write_policy(tmp_path / "p.onnx", golden=golden(**rows)))
    with pytest.raises(InputError, match=sentence):
        policy.self_check()


@pytest.mark.parametrize(
    ("properties", "sentence"),
    [
        ({"format": "offrl-policy-9"}, "format 'offrl-policy-9', expected 'offrl-policy-1'"),
        ({"robot_digest": "0" * 16}, "changed after export"),
        ({"robot": "robot: ["}, "not YAML"),
        ({"gate": "{}"}, "metadata cannot be read"),
        ({"definitions": "nonsense"}, "metadata cannot be read"),
        ({"golden": '{"observations": [[0]]}'}, "Golden: actions: Field required"),
        ({"golden": golden(observations=[0.0])}, "golden observations are 16 of [1] numbers"),
        ({"golden": golden(actions=[float("nan")] * 2)}, "Golden: actions.0.0: Input should be a"),
        ({"gate": calibration().model_dump_json().replace("0.2", "NaN", 1)}, "finite number"),
        ({"definitions": "[" * 100_000}, "metadata cannot be read"),
        ({"robot": "a: &a [1]\nb: [*a, *a]"}, "its robot file has aliases: not allowed"),
        ({"robot": "[" * 20 + "]" * 20}, "its robot file is nested too deeply"),
        ({"robot": "#" * 300_000}, "its robot file is above 262144 characters"),
        ({"algorithm": "a" * (16 * 2**20 + 1)}, "metadata 'algorithm' is above 16777216 bytes"),
    ],
)
def test_wrong_metadata_is_refused(
    properties: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as error:
        Policy(write_policy(tmp_path / "p.onnx", **properties))
    assert sentence in str(error.value)


def test_graph_of_other_shape_is_refused(tmp_path: Path) -> None:
    one = calibration()
    gate = one.model_copy(update={"scores": one.scores[:1]}).model_dump_json()
    with pytest.raises(InputError, match="its robot file says"):
        Policy(write_policy(tmp_path / "p.onnx", gate=gate))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = write_policy(tmp_path / "p.onnx").read_bytes()
    broken = tmp_path / "broken.onnx"
    for length in range(0, len(whole), max(1, len(whole) // 50)):
        broken.write_bytes(whole[:length])
        with pytest.raises(InputError):
            Policy(broken).self_check()


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = write_policy(tmp_path / "p.onnx")
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(500):
        content = bytearray(whole)
        content[generator.integers(len(whole))] ^= 1 << generator.integers(8)
        path.write_bytes(bytes(content))
        with pytest.raises(InputError, match=r"damaged|does not end with its checksum"):
            Policy(path)


def test_sealed_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.onnx"
    path.write_bytes(seal(b"not a protobuf"))
    with pytest.raises(InputError, match="not an ONNX file of the kind that is allowed"):
        Policy(path)
    path.write_bytes(seal(network(np.zeros(2)).SerializeToString()))
    with pytest.raises(InputError, match="not an offrl policy file: no 'format' in it"):
        Policy(path)


def test_too_new_an_opset_is_refused(tmp_path: Path) -> None:
    path = write_policy(tmp_path / "p.onnx")
    model = onnx.load(path)
    model.opset_import[0].version = 99
    path.write_bytes(seal(model.SerializeToString()))
    with pytest.raises(InputError, match=r"opset version \[99\], allowed one of 17 to 21"):
        Policy(path)


def test_serve_and_inspect_refuse_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a protobuf")
    for verb in ("serve", "inspect"):
        assert run([verb, str(broken)]) == 2
        assert "not a usable policy file" in capsys.readouterr().err
    assert run(["serve", str(tmp_path / "none.onnx")]) == 2
    assert "no such policy file" in capsys.readouterr().err


def test_inspect_shows_a_policy_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(write_policy(tmp_path / "p.onnx"))]) == 0
    said = capsys.readouterr().out
    assert "gate: alpha 0.05, thresholds from 20 held-out episodes" in said
    assert "commands cmd on /cmd_vel (geometry_msgs/msg/Twist): -1 to 1, -2 to 2" in said
