"""The identity of a bag's files does not depend on what was read of them, and in which order."""

from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from offrl_data.bags import Bag
from offrl_data.fingerprint import Fingerprint

from .conftest import BagMaker, drive

SIZES = (0, 1, 70_000, 3_000_000)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return files of several sizes, among them an empty one."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    paths = [folder / str(size) for size in SIZES]
    for path, size in zip(paths, SIZES, strict=True):
        path.write_bytes(rng.bytes(size))
    return paths


def expected(files: list[Path]) -> str:
    """Return the hash of the files one after another."""
    return xxhash.xxh3_128(b"".join(file.read_bytes() for file in files)).hexdigest()


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1), st.integers(0, 1 << 21)), max_size=8))
def test_any_reads(files: list[Path], reads: list[tuple[int, float, int]]) -> None:
    """Gaps, overlaps, steps back and a file before its turn change nothing."""
    fingerprint = Fingerprint(files)
    for which, share, size in reads:
        content = files[which].read_bytes()
        offset = round(share * len(content))
        fingerprint.saw(files[which], offset, content[offset : offset + size])
    assert fingerprint.digest() == expected(files)
    assert fingerprint.digest() == expected(files)


def test_what_was_shown_is_not_read_again(tmp_path: Path) -> None:
    """What a reader shows in order is taken from it, not from the file."""
    path = tmp_path / "bag"
    path.write_bytes(b"abcdef")
    fingerprint = Fingerprint([path])
    fingerprint.saw(path, 0, b"ABC")
    assert fingerprint.digest() == xxhash.xxh3_128(b"ABCdef").hexdigest()


@pytest.mark.parametrize("kind", ["mcap", "db3", "bag"])
@pytest.mark.parametrize("topics", [(), ("/cmd",), ("/cmd", "/pose")])
def test_bag(make_bag: BagMaker, kind: str, topics: tuple[str, ...]) -> None:
    """A bag has the same identity, however much of it was read."""
    with Bag(make_bag(drive(20.0), kind=kind)) as bag:
        for _ in bag.blocks(topics):
            pass
        assert bag.digest() == expected(bag.files)
