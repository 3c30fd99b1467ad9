"""Keys as a user makes them."""

import subprocess
from pathlib import Path


def make_keys(folder: Path, name: str = "key") -> tuple[Path, Path]:
    """A private and a public key, by the README's commands."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    openssl = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", private]
    subprocess.run(openssl, check=True, capture_output=True)
    openssl = ["openssl", "pkey", "-in", private, "-pubout", "-out", public]
    subprocess.run(openssl, check=True, capture_output=True)
    return private, public
