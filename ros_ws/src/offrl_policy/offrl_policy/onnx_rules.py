"""What an ONNX file may hold: a network and its weights, nothing that reaches outside.

A policy file may come from anyone. Its graph is read before the runtime gets to see it, and refused
for files beside it, operators of other domains or not in the list below, subgraphs, functions,
other opsets, shapes that depend on what is observed, and tensors whose bytes are not those that
their shape takes.
Field numbers: onnx.proto of ONNX 1.23, IR version 13.
"""

import math
from typing import Any

from offrl_contract.errors import nearest

from offrl_policy.wire import Field, Record, WireError, read

OPSETS = range(17, 22)
IR_VERSIONS = range(8, 12)
MAX_NODES = 20_000
MAX_RANK = 8
_NAMES = """
    Abs Add And ArgMax ArgMin Cast Ceil Clip Concat Constant ConstantOfShape Conv Cos CumSum Div
    Einsum Elu Equal Erf Exp Expand Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm
    Greater GreaterOrEqual HardSigmoid Identity InstanceNormalization LSTM LayerNormalization
    LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max Min Mish Mod Mul Neg Not OneHot Or Pad
    Pow RNN Range Reciprocal ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare Relu Reshape Round ScatterElements ScatterND Selu Shape Sigmoid
    Sign Sin Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Tan Tanh Tile TopK
    Transpose Trilu Unsqueeze Where Xor
"""
OPERATORS = frozenset(_NAMES.split())
"""What networks of torch become, recurrent and attentive ones included."""

_ITEM_SIZES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8}
"""Bytes per entry by TensorProto.DataType; strings, complex and sub-byte types are not allowed."""


_FLOAT, _INT64, _BOOL = 1, 7, 9
_FLOATS = frozenset({1, 10, 11})
_KINDS = dict.fromkeys(("ArgMax", "ArgMin", "Shape"), _INT64) | dict.fromkeys(
    ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Xor"), _BOOL
)
"""Of what an operator puts out, whatever its inputs are."""
_LIKE = {"OneHot": 2, "Where": 1}
"""Which input's type the output has, where that is not the first's."""
_SHAPING = {
    "ConstantOfShape": (0,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Slice": (1, 2, 3, 4),
    **dict.fromkeys(
        ("Expand", "OneHot", "Reshape", "Split", "Squeeze", "Tile", "TopK", "Unsqueeze"), (1,)
    ),
    **dict.fromkeys((name for name in OPERATORS if name.startswith("Reduce")), (1,)),
}
"""Which inputs of an operator say what shape it puts out."""


def _many(name: str, kind: str) -> Field:
    return Field(name, kind, repeated=True)


def _never(name: str) -> Field:
    return Field(name, "refused")


_SCHEMA = {
    "Model": {
        1: Field("ir_version", "int"),
        2: Field("producer_name", "text"),
        3: Field("producer_version", "text"),
        4: Field("domain", "text"),
        5: Field("model_version", "int"),
        6: Field("doc_string", "text"),
        7: Field("graph", "Graph"),
        8: _many("opset_import", "Opset"),
        14: _many("metadata_props", "Entry"),
        20: _never("training_info"),
        25: _never("functions"),
    },
    "Opset": {1: Field("domain", "text"), 2: Field("version", "int")},
    "Entry": {1: Field("key", "text"), 2: Field("value", "text")},
    "Graph": {
        1: _many("node", "Node"),
        2: Field("name", "text"),
        5: _many("initializer", "Tensor"),
        10: Field("doc_string", "text"),
        11: _many("input", "Value"),
        12: _many("output", "Value"),
        13: _many("value_info", "Value"),
        15: _never("sparse_initializer"),
        16: _many("metadata_props", "Entry"),
    },
    "Node": {
        1: _many("input", "text"),
        2: _many("output", "text"),
        3: Field("name", "text"),
        4: Field("op_type", "text"),
        5: _many("attribute", "Attribute"),
        6: Field("doc_string", "text"),
        7: Field("domain", "text"),
        8: Field("overload", "text"),
        9: _many("metadata_props", "Entry"),
    },
    "Attribute": {
        1: Field("name", "text"),
        2: Field("f", "float"),
        3: Field("i", "int"),
        4: Field("s", "bytes"),
        5: Field("t", "Tensor"),
        6: _never("a subgraph"),
        7: _many("floats", "float"),
        8: _many("ints", "int"),
        9: _many("strings", "bytes"),
        11: _never("a list of subgraphs"),
        13: Field("doc_string", "text"),
        20: Field("type", "int"),
    },
    "Tensor": {
        1: _many("dims", "int"),
        2: Field("data_type", "int"),
        8: Field("name", "text"),
        9: Field("raw_data", "bytes"),
        12: Field("doc_string", "text"),
        13: _never("data in another file"),
        14: _never("data in another file"),
        16: _many("metadata_props", "Entry"),
    },
    "Value": {
        1: Field("name", "text"),
        2: Field("type", "Type"),
        3: Field("doc_string", "text"),
        4: _many("metadata_props", "Entry"),
    },
    "Type": {1: Field("tensor_type", "TensorType"), 6: Field("denotation", "text")},
    "TensorType": {1: Field("elem_type", "int"), 2: Field("shape", "Shape")},
    "Shape": {1: _many("dim", "Dimension")},
    "Dimension": {
        1: Field("dim_value", "int"),
        2: Field("dim_param", "text"),
        3: Field("denotation", "text"),
    },
}


class RuleError(ValueError):
    """A model that is not allowed; says why."""


def check_model(content: bytes) -> dict[str, str]:
    """Check an ONNX file by its bytes; return its metadata. Raises RuleError."""
    try:
        model = read(memoryview(content), "Model", _SCHEMA)
    except WireError as error:
        raise RuleError(f"not an ONNX file of the kind that is allowed: {error}") from error
    _check_versions(model)
    graph = model.get("graph")
    if graph is None:
        raise RuleError("no graph in it")
    if len(graph["node"]) > MAX_NODES:
        raise RuleError(f"{len(graph['node'])} nodes, allowed {MAX_NODES}")
    for node in graph["node"]:
        _check_node(node)
    for tensor in graph["initializer"]:
        _check_tensor(tensor)
    _check_divisions(graph)
    _check_shapes(graph)
    properties: dict[str, str] = {}
    for entry in model["metadata_props"]:
        key = entry.get("key", "")
        if key in properties:
            raise RuleError(f"metadata '{key}' stands there twice")
        properties[key] = entry.get("value", "")
    return properties


def _check_versions(model: Record) -> None:
    version = model.get("ir_version", 0)
    if version not in IR_VERSIONS:
        raise RuleError(f"IR version {version}, allowed {_span(IR_VERSIONS)}")
    for opset in model["opset_import"]:
        if opset.get("domain", "") not in ("", "ai.onnx"):
            raise RuleError(f"operators of the domain '{opset['domain']}' are not allowed")
    versions = [opset.get("version", 0) for opset in model["opset_import"]]
    if len(versions) != 1 or versions[0] not in OPSETS:
        raise RuleError(f"opset version {versions}, allowed one of {_span(OPSETS)}")


def _check_node(node: Record) -> None:
    operator = node.get("op_type", "")
    if node.get("domain", "") not in ("", "ai.onnx"):
        raise RuleError(f"operator {operator} of the domain '{node['domain']}' is not allowed")
    if operator not in OPERATORS:
        raise RuleError(f"operator '{operator}' is not allowed.{nearest(operator, OPERATORS)}")
    for attribute in node["attribute"]:
        if "t" in attribute:
            _check_tensor(attribute["t"])
        if operator == "Conv" and attribute.get("name") == "group" and attribute.get("i", 0) < 1:
            raise RuleError("Conv: group is below 1, by which the runtime would divide")


def _check_divisions(graph: Record) -> None:
    """Refuse to divide integers: the least of them by -1 ends the process on x86."""
    kinds = dict.fromkeys((value.get("name") for value in graph["input"]), _FLOAT)  # seen to later
    kinds |= {tensor.get("name"): tensor.get("data_type") for tensor in graph["initializer"]}
    for node in graph["node"]:
        operator, inputs = node.get("op_type"), node["input"]
        if operator == "Div" and kinds.get(next(iter(inputs), None)) not in _FLOATS:
            raise RuleError("Div of integers, or of a type that is not known, is not allowed")
        kind = _kind(node, [kinds.get(name) for name in inputs])
        kinds |= dict.fromkeys(node["output"], kind)
        if operator == "TopK":
            kinds |= dict.fromkeys(node["output"][1:], _INT64)


def _check_shapes(graph: Record) -> None:
    """Refuse shapes that depend on what is observed.

    The golden vectors try but some of them, and of an empty one some operators end the process.
    """
    fixed = {tensor.get("name") for tensor in graph["initializer"]} | {""}
    fixed -= {value.get("name") for value in graph["input"]}
    for node in graph["node"]:
        operator, inputs = node.get("op_type"), node["input"]
        if any(inputs[at] not in fixed for at in _SHAPING.get(operator, ()) if at < len(inputs)):
            raise RuleError(f"{operator} of a shape that depends on an input is not allowed")
        if operator in ("Constant", "Shape") or (inputs and fixed.issuperset(inputs)):
            fixed.update(node["output"])


def _kind(node: Record, inputs: list[int | None]) -> int | None:
    """Return the data type of what a node puts out, given those of its inputs; None if unknown."""
    operator = node.get("op_type", "")
    attributes = {attribute.get("name"): attribute for attribute in node["attribute"]}
    if operator in _KINDS:
        return _KINDS[operator]
    if operator == "Cast":
        kind: int | None = attributes.get("to", {}).get("i")
        return kind
    if operator in ("Constant", "ConstantOfShape"):
        floats = operator == "ConstantOfShape" or {"value_float", "value_floats"} & set(attributes)
        kind = attributes.get("value", {}).get("t", {}).get("data_type")
        return kind or (_FLOAT if floats else _INT64)
    like = _LIKE.get(operator, 0)
    return inputs[like] if like < len(inputs) else None


def _check_tensor(tensor: Record) -> None:
    """Refuse a tensor whose bytes are elsewhere, or not as many as its shape takes."""
    name = tensor.get("name", "")
    kind, dims = tensor.get("data_type", 0), tensor["dims"]
    if kind not in _ITEM_SIZES:
        raise RuleError(f"tensor '{name}': data type {kind} is not allowed")
    if len(dims) > MAX_RANK or any(size < 0 for size in dims):
        raise RuleError(f"tensor '{name}': shape {dims} is not allowed")
    taken, there = math.prod(dims) * _ITEM_SIZES[kind], len(tensor.get("raw_data", b""))
    if taken != there:
        raise RuleError(f"tensor '{name}': {there} bytes for shape {dims}, which takes {taken}")


def _span(versions: Any) -> str:
    return f"{versions[0]} to {versions[-1]}"
