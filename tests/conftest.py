"""Fixtures shared by all tests: the real recordings, and DDS kept on this machine."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# a machine under load pauses a test for longer than any deadline that would mean something
settings.register_profile("house", deadline=None)
settings.load_profile("house")

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
# a domain of its own for each process, so that tests side by side do not meet
os.environ["ROS_DOMAIN_ID"] = os.environ.get("OFFRL_TEST_DOMAIN", str(1 + os.getpid() % 100))

BAGS = Path(__file__).resolve().parents[2] / "shared" / "bags"


@pytest.fixture(scope="session")
def bags() -> Path:
    """The folder of real recordings, beside the checkout."""
    if not BAGS.is_dir():
        pytest.skip("the folder of real recordings is not beside the checkout")
    return BAGS


@pytest.fixture(scope="session")
def msgs(bags: Path) -> Path:
    """Message definitions that Humble .db3 files do not carry."""
    return bags / "msg"


@pytest.fixture(scope="session")
def ros() -> Iterator[None]:
    """Rclpy, initialised: only once in a process that may run several files."""
    why = "rclpy is not installed: pip install 'offrl[ros]'"
    rclpy = pytest.importorskip("rclpy", reason=why)
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def forking() -> Iterator[None]:
    """A process that may fork: its children leave what other tests left to the collector alone.

    A node in a cycle, collected in a forked child, waits for DDS threads that it does not have.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
