"""Protocol Buffers, read by a schema and strictly: what the schema does not name is refused.

A runtime's own parser merges fields that stand twice and skips what it does not know; a check that
reads otherwise than the runtime is none. So what is doubtful is refused, not interpreted.
Encoding: https://protobuf.dev/programming-guides/encoding
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_MOST_FIELDS = 1_000_000


class WireError(ValueError):
    """Bytes that do not follow the schema."""


@dataclass(frozen=True)
class Field:
    """A field of a message."""

    name: str
    kind: str
    """`int`, `float`, `text`, `bytes`, the name of a message, or `refused`: never allowed."""
    repeated: bool = False


Schema = Mapping[str, Mapping[int, Field]]
Record = dict[str, Any]
"""A message: value by name; a list where the field is repeated."""


def read(content: memoryview, kind: str, schema: Schema) -> Record:
    """Return a message of a kind that the schema names. Raises WireError."""
    return _Reader(schema).message(content, kind)


class _Reader:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._count = 0

    def message(self, content: memoryview, kind: str) -> Record:
        fields = self._schema[kind]
        found: Record = {field.name: [] for field in fields.values() if field.repeated}
        for number, wire, value in _parts(content):
            self._count += 1
            if self._count > _MOST_FIELDS:
                raise WireError(f"more than {_MOST_FIELDS} fields")
            field = fields.get(number)
            if field is None:
                raise WireError(f"{kind}: field {number} is not allowed")
            if field.kind == "refused":
                raise WireError(f"{kind}: {field.name} is not allowed")
            if not field.repeated and field.name in found:
                raise WireError(f"{kind}: {field.name} stands there twice")
            if field.repeated:
                found[field.name].extend(self._values(kind, field, wire, value))
            else:
                found[field.name] = self._value(kind, field, wire, value)
        return found

    def _values(self, kind: str, field: Field, wire: int, value: Any) -> Iterator[Any]:
        """Yield the entries of a repeated field, packed or not."""
        if wire == _LENGTH and field.kind == "int":
            at = 0
            while at < len(value):
                entry, at = _varint(value, at)
                yield entry
        elif wire == _LENGTH and field.kind == "float":
            if len(value) % 4:
                raise WireError(f"{kind}: {field.name} has {len(value)} bytes")
            yield from struct.unpack(f"<{len(value) // 4}f", value)
        else:
            yield self._value(kind, field, wire, value)

    def _value(self, kind: str, field: Field, wire: int, value: Any) -> Any:
        expected = {"int": _VARINT, "float": _FIXED32}.get(field.kind, _LENGTH)
        if wire != expected:
            raise WireError(f"{kind}: {field.name} has wire type {wire}, not {expected}")
        if field.kind == "float":
            return struct.unpack("<f", value)[0]
        if field.kind == "text":
            try:
                return bytes(value).decode()
            except UnicodeDecodeError as error:
                raise WireError(f"{kind}: {field.name} is not UTF-8") from error
        return self.message(value, field.kind) if field.kind in self._schema else value


def _parts(content: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Yield field number, wire type and value of each field."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(content, at)
            yield number, wire, value
            continue
        if wire == _LENGTH:
            size, at = _varint(content, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise WireError(f"wire type {wire} is not allowed")
        if not 0 <= size <= len(content) - at:
            raise WireError("cut off")
        yield number, wire, content[at : at + size]
        at += size


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """Return a signed 64-bit number and where the next byte is."""
    value = 0
    for index in range(_LONGEST_VARINT):
        if at + index >= len(content):
            raise WireError("cut off")
        byte = content[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            value &= 2**64 - 1
            return (value - 2**64 if value >= 2**63 else value), at + index + 1
    raise WireError("a number of more than 10 bytes")
