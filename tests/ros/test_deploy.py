"""What is shipped for deployment names topics, services and options that the node really has."""

import configparser
import json
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from in_process import policy_node
from offrl_policy import commands
from offrl_policy.node import PolicyNode
from support import write_policy

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "ros_ws" / "src" / "offrl_policy" / "deploy"
# of the schema policy.xsd of sros2: children and attributes by element
STRUCTURE = {
    "policy": ({"contexts"}, {"version"}),
    "contexts": ({"context"}, set()),
    "context": ({"profiles"}, {"path"}),
    "profiles": ({"profile"}, {"type"}),
    "profile": ({"topics", "services", "actions"}, {"ns", "node"}),
    "topics": ({"topic"}, {"publish", "subscribe"}),
    "services": ({"service"}, {"reply", "request"}),
    "topic": (set(), set()),
    "service": (set(), set()),
}


@pytest.fixture(scope="module")
def node(ros: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolicyNode]:  # noqa: ARG001
    """A configured node of the robot diffdrive."""
    text = (ROOT / "robots" / "diffdrive.yaml").read_text()
    path = write_policy(tmp_path_factory.mktemp("policy") / "policy.onnx", text=text)
    with policy_node(path) as (made, _):
        wait_for_graph(made)
        yield made


def wait_for_graph(node: PolicyNode) -> None:
    """Wait until what the middleware tells of the node stays the same for a second.

    It learns of the node's own ends one by one; `/rosout` is among the last.
    """
    last, since, end = [set[str]()], time.monotonic(), time.monotonic() + 30.0
    while time.monotonic() < end:
        now = [names(node, kind) for kind in ("publisher", "subscriber", "service")]
        if now != last or "/rosout" not in now[0]:
            last, since = now, time.monotonic()
        if time.monotonic() - since > 1.0:
            return
        time.sleep(0.05)
    raise AssertionError(f"the graph does not settle: {last}")


def names(node: PolicyNode, kind: str) -> set[str]:
    found = getattr(node, f"get_{kind}_names_and_types_by_node")("policy", "/")
    return {name for name, _ in found}


def rules(kind: str, way: str, context: str = "/policy") -> set[str]:
    """Full names of a profile's topics or services, as sros2 expands them."""
    profile = ElementTree.parse(DEPLOY / "policy.xml").find(
        f".//context[@path='{context}']//profile"
    )
    assert profile is not None
    given = [
        each.text or "" for group in profile.findall(f"{kind}[@{way}='ALLOW']") for each in group
    ]
    private = profile.attrib["ns"] + profile.attrib["node"]
    return {name.replace("~", private, 1) for name in given}


def test_access_control_has_the_structure_of_sros2() -> None:
    tree = ElementTree.parse(DEPLOY / "policy.xml")
    assert tree.getroot().tag == "policy"
    for element in tree.iter():
        children, attributes = STRUCTURE[element.tag]
        assert {child.tag for child in element} <= children
        assert set(element.attrib) <= attributes
        assert children == set() or len(element)
        if element.tag in ("topics", "services"):
            assert set(element.attrib.values()) <= {"ALLOW", "DENY"}
            assert element.attrib


def test_access_control_allows_what_the_node_uses_and_no_more(node: PolicyNode) -> None:
    assert rules("topics", "publish") == names(node, "publisher")
    assert rules("topics", "subscribe") - {"/clock"} == names(node, "subscriber")
    unasked = {"/policy/get_type_description"}  # of rclpy itself, on some distributions
    assert rules("services", "reply") == names(node, "service") - unasked


def test_an_operator_may_ask_for_what_the_node_offers(node: PolicyNode) -> None:
    assert rules("services", "request", "/operator") <= rules("services", "reply")
    assert rules("topics", "subscribe", "/operator") <= rules("topics", "publish")
    assert rules("topics", "publish", "/operator") == {"/rosout", "/parameter_events"}
    assert names(node, "service")


def test_foxglove_layout_shows_topics_and_services_that_exist(node: PolicyNode) -> None:
    layout = json.loads((DEPLOY / "gate.foxglove.json").read_text())
    panels = layout["configById"]

    def leaves(at: object) -> list[str]:
        if isinstance(at, str):
            return [at]
        assert isinstance(at, dict)
        return [*leaves(at["first"]), *leaves(at["second"])]

    assert sorted(leaves(layout["layout"])) == sorted(panels)
    text = json.dumps(panels)
    topics = set(re.findall(r'"(?:value|topicPath|topicToRender)": "(/[\w/]+)', text))
    assert topics
    assert topics <= names(node, "publisher")
    services = set(re.findall(r'"serviceName": "(/[\w/]+)', text))
    assert services == {"/policy/engage", "/policy/reset"}
    assert services <= names(node, "service")
    scores = re.findall(r"uncertainty\.data\[(\d)\]", text)
    assert scores == list("01234567")


def test_unit_and_image_start_the_node_with_options_that_exist(
    capsys: pytest.CaptureFixture[str],
) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "offrl-policy.service")
    service = unit["Service"]
    assert service["KillSignal"] == "SIGINT"
    assert service["Restart"] == "always"
    assert service["RestartPreventExitStatus"] == "2"
    command = shlex.split(shlex.split(service["ExecStart"])[2])
    options = {word for word in command[command.index("serve") :] if word.startswith("--")}
    with pytest.raises(SystemExit):
        commands.serve(["--help"])
    assert options - {"--ros-args", "--params-file"} <= set(capsys.readouterr().out.split())
    image = (DEPLOY / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (\S+)", image, re.MULTILINE)
    assert all((ROOT / path).exists() for path in copied)
    assert 'ENTRYPOINT ["/ros_entrypoint.sh", "offrl", "serve"]' in image


def test_parameter_file_names_parameters_that_exist(node: PolicyNode) -> None:
    given = yaml.safe_load((DEPLOY.parent / "config" / "policy.yaml").read_text())
    assert all(node.has_parameter(name) for name in given["/**"]["ros__parameters"])
