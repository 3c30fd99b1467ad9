"""YAML by libyaml where PyYAML was built with it: about ten times faster than in Python."""

import re
from typing import Any, ClassVar

import yaml

_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)",
    "tag:yaml.org,2002:float": (
        r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)"
        r"|\.(nan|NaN|NAN)"
    ),
}
"""Those of YAML 1.1 without sexagesimal and octal ones: 10:30 is no 630, 010 no 8."""
_REPLACED = {*_NUMBERS, "tag:yaml.org,2002:timestamp"}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers: ClassVar = {
        first: [each for each in resolvers if each[0] not in _REPLACED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Quotes text that is a number in YAML 1.1, or here."""


for _tag, _pattern in _NUMBERS.items():
    for _either in (_Loader, _Dumper):
        _either.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list("-+.0123456789"))


def where_and_what(error: yaml.YAMLError) -> str:
    """Return the error on one line, without the name that the parser gives to any text."""
    return " ".join(str(error).split()).replace('in "<unicode string>", ', "at ")


def from_yaml(text: str) -> Any:
    """Return plain values. Raises yaml.YAMLError, also for a key that is given twice."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        _check_keys(root, set())
        return None if root is None else loader.construct_document(root)
    except (ValueError, KeyError, RecursionError) as error:
        raise yaml.YAMLError(f"a value that cannot be read: {error}") from error
    finally:
        loader.dispose()


def _check_keys(node: yaml.Node | None, checked: set[int]) -> None:
    """Refuse a mapping that has a key twice, of which YAML takes the last."""
    if not isinstance(node, yaml.CollectionNode) or id(node) in checked:
        return
    checked.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _check_keys(each, checked)
        return
    keys: set[Any] = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in keys:
            where = f"line {key.start_mark.line + 1}"
            raise yaml.YAMLError(f"{where}: the key '{key.value}' is given twice")
        keys.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        _check_keys(value, checked)


def to_yaml(content: Any) -> str:
    """Return the text of plain values, mappings in their order, lists of numbers on one line."""
    text: str = yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100
    )
    return text
