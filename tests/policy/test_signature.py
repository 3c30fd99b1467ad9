"""Signed policy files: keys as openssl makes them, and every way in which a signature is none."""

import subprocess
from pathlib import Path

import onnx
import pytest
from offrl_contract import InputError
from offrl_contract.cli import run
from offrl_policy.policy_file import Policy
from offrl_policy.signature import private_key, public_keys, seal, sign, unseal
from signing import make_keys
from support import write_policy

pytest.importorskip("cryptography", reason="signatures need cryptography: pip install .[robot]")


def signed(path: Path, key: Path) -> Path:
    content = sign(unseal(write_policy(path).read_bytes()), private_key(key))
    path.write_bytes(seal(content))
    return path


def test_signed_file_is_accepted_by_its_key_and_remains_onnx(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path)
    path = signed(tmp_path / "p.onnx", private)
    assert Policy(path, public).signed
    Policy(path).self_check()  # where no signature is asked for
    onnx.checker.check_model(onnx.load(path))


def test_one_of_several_trusted_keys_is_enough(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path)
    _, other = make_keys(tmp_path, "other")
    both = tmp_path / "both.pem"
    both.write_bytes(other.read_bytes() + public.read_bytes())
    assert len(public_keys(both)) == 2
    Policy(signed(tmp_path / "p.onnx", private), both)


def test_other_key_no_signature_and_changed_content_are_refused(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path)
    stranger, _ = make_keys(tmp_path, "other")
    with pytest.raises(InputError, match="not signed by any of the 1 keys"):
        Policy(signed(tmp_path / "p.onnx", stranger), public)
    with pytest.raises(InputError, match="not signed, and a signature is required"):
        Policy(write_policy(tmp_path / "p.onnx"), public)
    content = bytearray(unseal(signed(tmp_path / "p.onnx", private).read_bytes()))
    content[200] ^= 1
    (tmp_path / "p.onnx").write_bytes(seal(bytes(content)))  # with a checksum that fits
    with pytest.raises(InputError, match="not signed by any of the 1 keys"):
        Policy(tmp_path / "p.onnx", public)


def test_content_after_the_signature_is_refused(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path)
    content = unseal(signed(tmp_path / "p.onnx", private).read_bytes())
    more = onnx.ModelProto()
    more.metadata_props.add(key="algorithm", value="another")
    (tmp_path / "p.onnx").write_bytes(seal(content + more.SerializeToString()))
    with pytest.raises(InputError, match="not signed, and a signature is required"):
        Policy(tmp_path / "p.onnx", public)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no public key in it"),
        (
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "not a usable public key",
        ),
        (None, "cannot be read: No such file"),
    ],
)
def test_unusable_public_keys(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys.pem"
    if content is not None:
        keys.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        Policy(write_policy(tmp_path / "p.onnx"), keys)


def test_keys_of_other_kinds_and_with_a_passphrase_are_refused(tmp_path: Path) -> None:
    rsa, locked = tmp_path / "rsa.pem", tmp_path / "locked.pem"
    for arguments in (
        ["-algorithm", "rsa", "-out", rsa],
        ["-algorithm", "ed25519", "-aes256", "-pass", "pass:x", "-out", locked],
    ):
        subprocess.run(["openssl", "genpkey", *arguments], check=True, capture_output=True)
    with pytest.raises(InputError, match="RSAPrivateKey, not an Ed25519 private key"):
        private_key(rsa)
    with pytest.raises(InputError, match="not a usable private key: Password was not given"):
        private_key(locked)


def test_serve_refuses_an_unsigned_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, public = make_keys(tmp_path)
    path = write_policy(tmp_path / "p.onnx")
    assert run(["serve", str(path), "--trusted-keys", str(public)]) == 2
    assert "not signed, and a signature is required" in capsys.readouterr().err


def test_inspect_says_whether_a_file_is_signed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, _ = make_keys(tmp_path)
    assert run(["inspect", str(write_policy(tmp_path / "p.onnx"))]) == 0
    assert "  not signed" in capsys.readouterr().out
    assert run(["inspect", str(signed(tmp_path / "p.onnx", private))]) == 0
    assert "with an Ed25519 signature" in capsys.readouterr().out
