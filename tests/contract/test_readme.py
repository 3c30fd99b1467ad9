"""The README: its tables are those of the code, its examples load."""

import re
from pathlib import Path

from offrl_contract import robot_from_yaml
from offrl_contract.expression import FUNCTIONS
from offrl_contract.robot import (
    ActionTerm,
    Collision,
    Episode,
    EpisodeTopic,
    ImageTerm,
    ObservationTerm,
    Robot,
    Term,
)
from readme_tables import options

README = Path(__file__).parents[2] / "ros_ws" / "src" / "offrl_contract" / "README.md"


def tables() -> str:
    """What stands under the heading Parameters."""
    parts = [
        f"A robot file:\n\n{options(Robot)}",
        f"A term of `observation` or `signals`:\n\n{options(Term)}",
        f"Only in `observation`:\n\n{options(ObservationTerm, Term)}",
        f"`collision` of a term:\n\n{options(Collision)}",
        f"A term of `action`:\n\n{options(ActionTerm)}",
        f"A term of `images`:\n\n{options(ImageTerm)}",
        f"`episode`:\n\n{options(Episode)}",
        f"`running`, `start` and `stop` of `episode`:\n\n{options(EpisodeTopic)}",
    ]
    return "\n\n".join(parts)


def test_tables_are_those_of_the_code() -> None:
    assert tables() in README.read_text(), f"paste this under Parameters:\n{tables()}"
    assert ", ".join(f"`{name}`" for name in FUNCTIONS) in " ".join(README.read_text().split())


def test_examples_run() -> None:
    text = README.read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert robot_from_yaml(example, "README.md").observation_size == 37
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), scope)
    assert scope["robot"].observation_size == 40
    assert scope["robot"].observation_slices["goal"] == slice(38, 40)
