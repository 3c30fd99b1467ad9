"""Corrupted bags: an error, a reported loss, or the rows as far as bytes allow; no crash, no hang.

`OFFRL_FUZZ=12000 pytest -s tests/data/test_fuzz.py` runs more than the few of every test run.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fuzzing import DAMAGES
from offrl_contract import InputError, Robot
from offrl_data.conversion import convert_bags
from offrl_data.dataset import load_dataset

from .conftest import BagMaker, drive

INPUTS = int(os.environ.get("OFFRL_FUZZ", "450"))
LIMIT = 20  # [s] for one input


class HangError(BaseException):
    """One input took too long."""


@pytest.mark.timeout(3600)
def test_corrupted_bags_never_crash_and_never_hang(
    make_bag: BagMaker,
    robot: Robot,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    sources: dict[str, bytes] = {}
    for kind in ("mcap", "db3", "bag"):
        bag = make_bag(drive(30.0), kind=kind, name=f"source_{kind}")
        file = bag if kind == "bag" else next(bag.glob(f"*.{kind}"))
        sources[kind] = file.read_bytes()
    out = tmp_path / "data.h5"
    convert_bags([tmp_path / "source_mcap"], robot, out)
    whole = load_dataset(out).digest
    outcomes: Counter[tuple[str, str]] = Counter()

    def too_long(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, too_long)
    try:
        for seed in range(INPUTS):
            kind = ("mcap", "db3", "bag")[seed % 3]
            rng = np.random.default_rng(seed)
            content = bytearray(sources[kind])
            for _ in range(int(rng.integers(1, 4))):
                if content:
                    DAMAGES[int(rng.integers(0, len(DAMAGES)))](content, rng)
            path = tmp_path / f"damaged.{kind}"
            path.write_bytes(bytes(content))
            signal.alarm(LIMIT)
            try:
                (report,) = convert_bags([path], robot, out)
            except InputError:
                outcome = "refused"
            else:
                lost = report.losses or any(topic.malformed for topic in report.topics)
                same = load_dataset(out).digest == whole
                outcome = "loss reported" if lost else "unharmed" if same else "other rows"
            finally:
                signal.alarm(0)
            outcomes[kind, outcome] += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    for (kind, outcome), count in sorted(outcomes.items()):
        record_property(f"{kind}: {outcome}", count)
        sys.stdout.write(f"\n{kind}: {outcome}: {count}")
    assert sum(outcomes.values()) == INPUTS
    for kind in sources:
        assert outcomes[kind, "refused"]
        assert outcomes[kind, "loss reported"]
    # mcap checks its chunks: damage inside them is never taken for data
    assert outcomes["mcap", "other rows"] <= 0.02 * INPUTS
