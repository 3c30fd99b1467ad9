"""A policy file from anyone: what its graph may not hold is refused before the runtime reads it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from offrl_contract import InputError
from offrl_policy import policy_file
from offrl_policy.policy_file import Policy
from offrl_policy.signature import seal
from onnx import TensorProto, helper, numpy_helper
from support import calibration, write_policy

Change = Callable[[onnx.ModelProto], object]


def changed(path: Path, change: Change) -> Path:
    """A policy file with a changed model, sealed as an attacker would."""
    model = onnx.load(write_policy(path))
    del model.metadata_props[-1]  # its checksum
    change(model)
    path.write_bytes(seal(model.SerializeToString()))
    return path


def node(model: onnx.ModelProto, operator: str, domain: str = "", **attributes: object) -> None:
    made = helper.make_node(operator, ["observation"], ["more"], domain=domain, **attributes)
    model.graph.node.append(made)


def elsewhere(model: onnx.ModelProto) -> None:
    """The weights are in another file of the robot."""
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def subgraph(model: onnx.ModelProto) -> None:
    node(model, "Identity", then_branch=helper.make_graph([], "inner", [], []))


def function(model: onnx.ModelProto) -> None:
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("mine", "f", [], [], [], opset))


def wrong_size(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 2**40


def huge_product(model: onnx.ModelProto) -> None:
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([2**32, 2**32])  # 2**64: nothing, in 64 bits


def text_tensor(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = TensorProto.STRING


def integer_division(model: onnx.ModelProto) -> None:
    """Of a number from the robot: -2**31 by -1 ended the process."""
    model.graph.initializer.add(name="least", data_type=TensorProto.INT32, raw_data=b"\0\0\0\x80")
    steps = [
        helper.make_node("Cast", ["observation"], ["whole"], to=TensorProto.INT32),
        helper.make_node("Neg", ["whole"], ["other"]),
        helper.make_node("Where", ["yes", "least", "other"], ["either"]),
        helper.make_node("Div", ["either", "other"], ["more"]),
    ]
    model.graph.node.extend(steps)


def as_many_as(model: onnx.ModelProto, source: str, numbers: str, some: str) -> None:
    """Hand on as many of up to eight `numbers` as twist_0 says, or as a constant does."""
    values = {"zero": [0], "last": [1], "twist": [4], "next": [5], "constant": [[0, 0, 0, 0, 1]]}
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(np.int64(value), name))
    steps = [
        helper.make_node("Slice", [source, "twist", "next", "last"], ["speed"]),
        helper.make_node("Cast", ["speed"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Squeeze", ["whole", "zero"], ["end"]),
        helper.make_node("Slice", [numbers, "zero", "end", "last"], [some]),
    ]
    model.graph.node.extend(steps)


def empty_once_slow(model: onnx.ModelProto) -> None:
    """Of no numbers, InstanceNormalization ended the process."""
    as_many_as(model, "observation", "observation", "some")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "ones"))
    model.graph.initializer.append(numpy_helper.from_array(np.int64([1, 1, -1]), "shape"))
    steps = [
        helper.make_node("Reshape", ["some", "shape"], ["channel"]),
        helper.make_node("InstanceNormalization", ["channel", "ones", "ones"], ["more"]),
    ]
    model.graph.node.extend(steps)


def short_answer(source: str, output: str) -> Change:
    """One number in place of two commanded both; one score fewer ended the node."""

    def shorten(model: onnx.ModelProto) -> None:
        (answers,) = (each for each in model.graph.node if output in each.output)
        answers.output[0] = "all"
        as_many_as(model, source, "all", output)

    return shorten


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (empty_once_slow, "Slice of a shape that depends on an input is not allowed"),
        (short_answer("observation", "action"), "Slice of a shape that depends on an input"),
        (short_answer("observation", "uncertainty"), "Slice of a shape that depends on an input"),
        (short_answer("constant", "action"), "'action': [1, 1]"),
        (short_answer("constant", "uncertainty"), "'uncertainty': [1, 1]"),
        (integer_division, "Div of integers, or of a type that is not known, is not allowed"),
        (
            lambda m: m.graph.node.append(helper.make_node("Div", ["later"] * 2, ["x"])),
            "Div of int",
        ),
        (lambda m: node(m, "Conv", group=0), "Conv: group is below 1"),  # ended the process
        (elsewhere, "Tensor: data in another file is not allowed"),
        (subgraph, "Attribute: a subgraph is not allowed"),
        (function, "Model: functions is not allowed"),
        (wrong_size, "64 bytes for shape"),
        (huge_product, "64 bytes for shape"),
        (text_tensor, "data type 8 is not allowed"),
        (lambda m: node(m, "If"), "operator 'If' is not allowed"),
        (lambda m: node(m, "Loop"), "operator 'Loop' is not allowed"),
        (lambda m: node(m, "Relux"), "Did you mean 'Relu'?"),
        (lambda m: node(m, "Relu", "com.acme"), "operator Relu of the domain 'com.acme'"),
        (lambda m: m.opset_import.add(domain="com.acme", version=1), "the domain 'com.acme'"),
        (lambda m: m.training_info.add(), "Model: training_info is not allowed"),
        (lambda m: setattr(m, "ir_version", 99), "IR version 99, allowed 8 to 11"),
        (lambda m: m.metadata_props.add(key="gate", value="{}"), "metadata 'gate' stands there tw"),
    ],
)
def test_what_is_not_allowed_is_refused(change: Change, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        Policy(changed(tmp_path / "p.onnx", change))
    assert sentence in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_gate_without_scores_is_refused(tmp_path: Path) -> None:
    gate = calibration().model_copy(update={"scores": ()}).model_dump_json()
    with pytest.raises(InputError, match="scores: Tuple should have at least 1 item"):
        Policy(write_policy(tmp_path / "p.onnx", gate=gate))


def test_the_same_file_unchanged_is_allowed(tmp_path: Path) -> None:
    Policy(changed(tmp_path / "p.onnx", lambda _: None)).self_check()


def test_fields_that_stand_twice_are_refused(tmp_path: Path) -> None:
    """A runtime would merge the second graph into the first."""
    path = write_policy(tmp_path / "p.onnx")
    more = onnx.ModelProto()
    more.graph.name = "more"
    path.write_bytes(seal(path.read_bytes() + more.SerializeToString()))
    with pytest.raises(InputError, match="Model: graph stands there twice"):
        Policy(path)


def test_fields_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    path = write_policy(tmp_path / "p.onnx")
    path.write_bytes(seal(path.read_bytes() + b"\xf8\x07\x01"))  # field 127
    with pytest.raises(InputError, match="Model: field 127 is not allowed"):
        Policy(path)


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_policy(tmp_path / "p.onnx")
    Policy(path)
    monkeypatch.setattr(policy_file, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(InputError, match="more than a policy may have"):
        Policy(path)


def test_a_type_that_is_no_package_and_name_is_refused(tmp_path: Path) -> None:
    """The node imports the package of a type."""
    from support import ROBOT

    text = ROBOT.replace("geometry_msgs/msg/Twist", "os.path/msg/join")
    with pytest.raises(InputError, match=r"'os\.path/msg/join' must be package/msg/Name"):
        write_policy(tmp_path / "p.onnx", text=text)


@pytest.mark.parametrize("numbers", [2**29, 2**38])
def test_more_memory_than_a_policy_may_take_is_refused(numbers: int, tmp_path: Path) -> None:
    """A few bytes that unfold to 2 GiB, which this machine might have, or to a tebibyte."""

    def unfold(model: onnx.ModelProto) -> None:
        raw = np.int64([numbers]).tobytes()
        model.graph.initializer.append(helper.make_tensor("n", TensorProto.INT64, [1], raw, True))
        model.graph.node[1].output[0] = "plain"
        model.graph.node.extend(
            [
                helper.make_node("ConstantOfShape", ["n"], ["much"]),
                helper.make_node("ReduceSum", ["much"], ["total"], keepdims=0),
                helper.make_node("Add", ["plain", "total"], ["action"]),
            ]
        )

    path = changed(tmp_path / "p.onnx", unfold)
    with pytest.raises(InputError, match=r"cannot be run: .*ConstantOfShape"):
        Policy(path).self_check()
