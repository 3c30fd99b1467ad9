"""The robot file: what it refuses, and the sentence it refuses with."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
from offrl_contract import InputError, Robot, load_robot, robot_from_yaml
from offrl_contract.robot_file import require_same

SHIPPED = sorted(
    entry.name.removesuffix(".yaml")
    for entry in files("offrl_contract").joinpath("robots").iterdir()
    if entry.name.endswith(".yaml")
)
NEATO = files("offrl_contract").joinpath("robots", "neato.yaml").read_text()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_robot_survives_its_canonical_text(name: str) -> None:
    robot = load_robot(name)
    again = robot_from_yaml(robot.to_yaml(), "again")
    assert again.digest() == robot.digest()
    assert again == robot


def test_neato_is_what_the_recordings_need() -> None:
    robot = load_robot("neato")
    assert robot.observation_size == 36 + 2 + 2
    assert robot.action_size == 2
    assert robot.period == 200_000_000


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "field: ranges",
            "feild: ranges",
            "observation[0].feild: unknown key. Did you mean 'field'",
        ),
        ("robot: neato", "robto: neato", "robto: unknown key. Did you mean 'robot'?"),
        ("next_bump", "next_bumb", "terminal: unknown name 'next_bumb'. Did you mean 'next_bump'"),
        ("min(next_scan)", "mn(next_scan)", "reward: unknown function 'mn'. Did you mean 'min'?"),
        ("rate: 5.0", "rate: -5", "rate: Input should be greater than or equal to 0.001, got -5"),
        ("[1.5, 12.0]", "[1.5]", "action[0]: max_rate: 1 entries for 2 fields"),
        ("safe: [0.0, 0.0]", "safe: [9.0, 0.0]", "safe: 9.0 for linear.x is outside its limits"),
        ("name: twist", "name: scan", "'scan' is already named by observation[0].name"),
        ("episode: {gap", "episode: {gpa", "episode.gpa: unknown key. Did you mean 'gap'?"),
        (
            "episode: {gap",
            "episode: {stop: {topic: /t, type: a/msg/B, feild: x}, gap",
            "episode.stop.feild: unknown key. Did you mean 'field'?",
        ),
        ("topic: /odom", "topic: odom", "topic: 'odom' must begin with a slash"),
        ("topic: /cmd_vel", "topic: cmd_vel", "topic: 'cmd_vel' must begin with a slash"),
        ("clip: [0.1, 5.0]", "clip: [5.0, 0.1]", "clip: the lower end must be below"),
        ("robot: neato", "robot: [", "or ']' at line 5, column 1"),
        ("min(next_scan)", "norm(twist - scan)", "reward: '"),
        ("rate: 5.0", "rate: 5.0\nrate: 6.0", "the key 'rate' is given twice"),
        ("rate: 5.0", "rate: 1.0e-300", "rate: Input should be greater than or equal to 0.001"),
        ("rate: 5.0", "rate: 1.0e+9", "rate: Input should be less than or equal to 10000"),
        ("max_age: 0.5", "max_age: 1.0e+300", "max_age: Input should be less than or equal to 1"),
        ("{gap: 1.0", "{gap: 1.0e+11", "episode.gap: Input should be less than or equal to 1"),
        ("bins: 36", "bins: 100000000", "bins: Input should be less than or equal to 1000000"),
        ("bins: 36", "bins: 36, history: 1000000", "observation: 36000004 numbers, more than 1"),
        ("field: [linear.x, angular.z]", "field: []", "field: Value should have at least 1 item"),
        ("reward: ", "reward: {1: a, b: c}  # ", "reward: unknown key '1'"),
        ("robot: neato", "robot: !!int x", "not YAML"),
        ("episode: {gap", "episode: {stop: {topic: t, type: a/msg/B}, gap", "must begin with a sl"),
        ("rate: 5.0", "rate: yes", "rate: needs a number, not True"),
        ("rate: 5.0", "rate: 10:30", "rate: Input should be a valid number"),
        ("source: action", "source: action, wrap: true, max_age: 1", "takes no max_age, wrap"),
    ],
)
def test_error_names_place_and_remedy(old: str, new: str, sentence: str) -> None:
    assert old in NEATO
    with pytest.raises(InputError) as error:
        robot_from_yaml(NEATO.replace(old, new, 1), "neato.yaml")
    assert sentence in str(error.value)
    assert str(error.value).startswith("neato.yaml: ")


def test_a_policy_that_sees_only_its_own_commands_is_refused() -> None:
    """A log would have no begin: its first tick is when all observed topics have a message."""
    terms = [line for line in NEATO.splitlines() if "name: scan" not in line]
    text = "\n".join(line for line in terms if "name: twist" not in line)
    text = text.replace(robot_from_yaml(NEATO, "a").reward, "cmd_0")
    with pytest.raises(InputError, match="observation: needs a term that is read from a topic"):
        robot_from_yaml(text, "neato.yaml")


def test_a_robot_may_be_named_by_a_date() -> None:
    text = NEATO.replace("robot: neato", "robot: 2024-13-45")
    assert robot_from_yaml(text, "a").robot == "2024-13-45"


@pytest.mark.parametrize("name", ["1.5e3", "+.5", "010", "yes", "10:30", "0x1F", "1e3"])
def test_a_name_like_a_number_survives_the_file_of_a_dataset(name: str) -> None:
    robot = robot_from_yaml(NEATO.replace("robot: neato", f"robot: '{name}'"), "a")
    assert robot_from_yaml(robot.to_yaml(), "b") == robot


def test_a_term_named_next_is_scored() -> None:
    text = NEATO.replace("name: twist", "name: next").replace("next_twist_", "next_next_")
    assert "next" in robot_from_yaml(text.replace("min(next_scan)", "next_0"), "a").scored_terms


def test_missing_file_names_the_shipped_ones() -> None:
    with pytest.raises(InputError, match=r"no such robot file.*ackermann.*neato"):
        load_robot("nowhere.yaml")
    with pytest.raises(InputError, match="Did you mean 'diffdrive'"):
        load_robot("diffdriv")


def test_a_folder_is_no_robot_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; a robot file is one YAML file"):
        load_robot(tmp_path)


def test_digest_is_blind_to_layout_and_sees_content() -> None:
    robot = robot_from_yaml(NEATO, "a")
    assert robot_from_yaml("# a comment\n" + NEATO, "b").digest() == robot.digest()
    other = robot_from_yaml(NEATO.replace("max_age: 0.5}", "max_age: 0.4}", 1), "d")
    assert other.digest() != robot.digest()
    with pytest.raises(InputError, match=r"\+ the data.*\n.*max_age: 0\.4"):
        require_same(robot, other, "the run", "the data")


def test_schema_for_editors_is_current() -> None:
    """Regenerate with: make schema."""
    written = files("offrl_contract").joinpath("robots", "robot.schema.json").read_text()
    assert json.loads(written) == Robot.model_json_schema()


def test_robots_at_the_top_are_the_shipped_ones() -> None:
    top = Path(__file__).parents[2] / "robots" / "neato.yaml"
    assert load_robot(top).digest() == load_robot("neato").digest()
