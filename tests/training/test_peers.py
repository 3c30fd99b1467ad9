"""The benchmarks have a match for each of our settings; it takes no peer to see that."""

import pytest
from d3rlpy_peer import MATCHES, TIMED, unmatched
from offrl_training.algorithms import ALGORITHMS


@pytest.mark.parametrize("name", [*MATCHES, *TIMED])
def test_every_setting_has_a_match_in_d3rlpy(name: str) -> None:
    assert unmatched(name, ALGORITHMS[name].config_type()) == []
