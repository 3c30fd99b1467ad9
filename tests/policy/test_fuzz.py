"""Mutated policy files: refused, or of the same answers; never a crash or a hang.

`OFFRL_FUZZ=6000 pytest -s tests/policy/test_fuzz.py` runs more than the few of every test run.

Each file is tried in a process of its own. A third of the files is left as the damage made it; the
checksum refuses it. A third is sealed anew, as by somebody who means it: the rules, the golden
vectors, or nothing stop it. The last third is sealed anew where a signature is required.
"""

import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fuzzing import DAMAGES
from offrl_contract import InputError
from offrl_policy.policy_file import Policy
from offrl_policy.signature import private_key, seal, sign, unseal
from recurrent import write_gru_policy
from signing import make_keys

pytest.importorskip("cryptography", reason="signatures need cryptography: pip install .[robot]")

FILES = int(os.environ.get("OFFRL_FUZZ", "150"))
LIMIT = 60  # [s] for one file
REFUSED, IDENTICAL, ANOTHER = 10, 11, 12
OUTCOMES = {REFUSED: "refused", IDENTICAL: "identical", ANOTHER: "another policy"}
KINDS = ("as damaged", "sealed anew", "sealed anew, signature required")
OBSERVATIONS = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)


def answers(policy: Policy) -> bytes:
    """Everything that decides about a drive: answers to observations, gate and robot file."""
    memory, said = policy.initial_memory, []
    for observation in OBSERVATIONS:
        answer = policy.run(observation, memory)
        memory = answer.memory
        said += [answer.action.tobytes(), answer.uncertainty.tobytes()]
    said += [policy.gate.model_dump_json().encode(), policy.robot.digest().encode()]
    return b"".join(said)


def attempt(path: Path, keys: Path | None, whole: bytes, wall: int) -> None:
    """Load, check and run a file; the exit code says how it went."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(wall)
    try:
        policy = Policy(path, keys)
        policy.self_check()
        code = IDENTICAL if answers(policy) == whole else ANOTHER
    except InputError:
        code = REFUSED
    os._exit(code)  # any other exception ends the process with 1


def damaged(source: bytes, kind: str, rng: np.random.Generator) -> bytes:
    content = bytearray(source if kind == "as damaged" else unseal(source))
    for _ in range(int(rng.integers(1, 4))):
        if content:
            DAMAGES[int(rng.integers(0, len(DAMAGES)))](content, rng)
    return bytes(content) if kind == "as damaged" else seal(bytes(content))


@pytest.mark.timeout(7200)
@pytest.mark.usefixtures("forking")
def test_mutated_policy_files_are_refused_or_the_same(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    private, public = make_keys(tmp_path)
    path = write_gru_policy(tmp_path / "p.onnx")
    source = seal(sign(unseal(path.read_bytes()), private_key(private)))
    path.write_bytes(source)
    whole = answers(Policy(path, public))
    outcomes: Counter[tuple[str, str]] = Counter()
    fork = multiprocessing.get_context("fork")
    for seed in range(FILES):
        kind = KINDS[seed % 3]
        path.write_bytes(damaged(source, kind, np.random.default_rng(seed)))
        keys = public if kind == KINDS[2] else None
        process = fork.Process(target=attempt, args=(path, keys, whole, LIMIT))
        process.start()
        process.join(LIMIT + 10)
        code = process.exitcode or 0
        outcomes[kind, OUTCOMES.get(code, f"exit code {code}, seed {seed}")] += 1
    for (kind, outcome), count in sorted(outcomes.items()):
        record_property(f"{kind}: {outcome}", count)
        sys.stdout.write(f"\n{kind}: {outcome}: {count}")
    assert sum(outcomes.values()) == FILES
    assert {outcome for _, outcome in outcomes} <= set(OUTCOMES.values()), outcomes
    for kind in (KINDS[0], KINDS[2]):
        assert not outcomes[kind, "another policy"]
        assert outcomes[kind, "refused"]
