"""Who made a policy file: an Ed25519 signature over its bytes, inside of it, and its checksum.

Both are entries of the ONNX metadata at the file's end, so that a signed file remains valid ONNX:
`content, [signature of content], SHA-256 of all that stands before`.
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from offrl_contract import InputError

# ONNX metadata_props {key, value: hexadecimal digits}, as Protocol Buffers writes them
_SEAL = b"\x72\x4a\x0a\x06sha256\x12\x40"
_SEAL_DIGITS = 64
_SIGNATURE = b"\x72\x8c\x01\x0a\x07ed25519\x12\x80\x01"
_SIGNATURE_DIGITS = 128
_END = b"-----END PUBLIC KEY-----"


def seal(content: bytes) -> bytes:
    """Append the checksum of an ONNX file to it, as one more entry of its metadata."""
    return content + _SEAL + sha256(content).hexdigest().encode()


def unseal(content: bytes) -> bytes:
    """Return what was sealed. Raises ValueError unless the file ends with its checksum."""
    end = len(content) - len(_SEAL) - _SEAL_DIGITS
    if end <= 0 or content[end : end + len(_SEAL)] != _SEAL:
        raise ValueError("not a usable policy file: it does not end with its checksum")
    if content[end + len(_SEAL) :] != sha256(content[:end]).hexdigest().encode():
        raise ValueError("damaged: its content does not match its checksum")
    return content[:end]


def sign(content: bytes, key: Any) -> bytes:
    """Append the signature of an ONNX file by a key of `private_key`."""
    signature: bytes = key.sign(content)
    return content + _SIGNATURE + signature.hex().encode()


def require_signature(content: bytes, trusted: Path) -> None:
    """Raise InputError unless unsealed content ends with a signature by one of the trusted keys."""
    keys = public_keys(trusted)
    from cryptography.exceptions import InvalidSignature

    end = len(content) - len(_SIGNATURE) - _SIGNATURE_DIGITS
    if end <= 0 or content[end : end + len(_SIGNATURE)] != _SIGNATURE:
        raise InputError("not signed, and a signature is required. Use: offrl export --sign KEY")
    try:
        signature = bytes.fromhex(content[end + len(_SIGNATURE) :].decode())
    except ValueError as error:
        raise InputError("its signature is not hexadecimal") from error
    for key in keys:
        try:
            key.verify(signature, content[:end])
        except InvalidSignature:
            continue
        return
    raise InputError(f"not signed by any of the {len(keys)} keys in {trusted}")


def private_key(path: Path) -> Any:
    """Return an Ed25519 private key from a PEM file without passphrase. Raises InputError."""
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_private_key(_bytes(path), password=None)
    except (ValueError, TypeError) as error:  # TypeError: it has a passphrase
        raise InputError(f"{path}: not a usable private key: {_first_line(error)}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(f"{path}: {type(key).__name__.strip('_')}, not an Ed25519 private key")
    return key


def public_keys(path: Path) -> list[Any]:
    """Return the Ed25519 public keys of a PEM file, one block after another. Raises InputError."""
    serialization, ed25519 = _library()
    keys = []
    for block in _blocks(_bytes(path)):
        try:
            key = serialization.load_pem_public_key(block)
        except ValueError as error:
            raise InputError(f"{path}: not a usable public key: {_first_line(error)}") from error
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise InputError(f"{path}: {type(key).__name__.strip('_')}, not an Ed25519 public key")
        keys.append(key)
    if not keys:
        raise InputError(f"{path}: no public key in it (a PEM file, BEGIN PUBLIC KEY)")
    return keys


def _blocks(content: bytes) -> Iterator[bytes]:
    *blocks, _ = content.split(_END)
    yield from (block + _END + b"\n" for block in blocks)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _library() -> tuple[Any, Any]:
    """Import what only signatures need: a robot without them does without."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise InputError(
            "signatures need the Python package cryptography: pip install 'offrl[robot]', "
            "or apt install python3-cryptography"
        ) from error
    return serialization, ed25519
