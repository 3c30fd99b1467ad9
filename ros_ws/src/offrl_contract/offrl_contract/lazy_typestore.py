"""Definitions of messages whose classes are made when a message is first (de)serialised."""

from collections.abc import Iterator
from typing import Any

from rosbags.interfaces import Msgdef, Nodetype
from rosbags.interfaces.typing import Typesdict
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_typestore
from rosbags.typesys.base import normalize_fieldname
from rosbags.typesys.store import Typestore

_NO_MEMBERS: Any = [("structure_needs_at_least_one_member", (Nodetype.BASE, ("uint8", 0)))]
_SIZES = (8, 16, 32, 64)
_KNOWN = {
    *("bool", "byte", "char", "octet", "string", "float32", "float64"),
    *(f"{sign}int{size}" for size in _SIZES for sign in ("", "u")),
}
_DEEPEST = 100


class LazyTypestore(Typestore):
    """Definitions whose classes are made late, each with those that it embeds.

    Making them takes longer than parsing the definitions, and the batch path needs none.
    """

    def __init__(self) -> None:
        """Begin with the two types that definitions of ROS 1 use and do not embed."""
        super().__init__()
        self.fielddefs.update(get_typestore(Stores.EMPTY).fielddefs)

    def register(self, typs: Typesdict) -> None:
        """Add parsed definitions.

        Raises TypesysError where one is there and differs, and for names and kinds of numbers that
        no class can have.
        """
        for name, (constants, fields) in typs.items():
            members = [field for field, _ in fields] + [constant for constant, _, _ in constants]
            _check(name, members, fields)
            new = (constants, fields or _NO_MEMBERS)
            if _blind_to_case(self.fielddefs.setdefault(name, new)[1]) != _blind_to_case(new[1]):
                raise TypesysError(f"Type {name!r} is already present with different definition.")

    def get_msgdef(self, typename: str) -> Msgdef[object]:
        """Return how a type is (de)serialised. Raises SerdeError where that is not known."""
        known = self.cache.get(typename)
        if known:  # asked for at every nested message
            return known
        if typename not in self.types:
            try:
                below = {name: self.fielddefs[name] for name in types_below(self, typename)}
            except (KeyError, TypesysError) as error:
                raise SerdeError(f"{typename}: no usable definition: {error}") from error
            made = Typestore()
            made.register(below)
            self.types.update(made.types)
        return super().get_msgdef(typename)


def types_below(store: Typestore, type_name: str) -> set[str]:
    """Return a type and those that it embeds, defined or not.

    Raises TypesysError for one that contains itself.
    """
    found: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above or len(above) > _DEEPEST:
            raise TypesysError(f"Type {name!r} contains itself, or too many.")
        if name not in found and name in store.fielddefs:
            for inner in _embedded(store, name):
                visit(inner, (*above, name))
        found.add(name)

    visit(type_name, ())
    return found


def _embedded(store: Typestore, type_name: str) -> Iterator[str]:
    for _, kind in store.fielddefs[type_name][1]:
        tag, what = _element(kind)
        if tag == Nodetype.NAME:
            yield what


def _element(kind: Any) -> Any:
    """Return the kind of an array's or sequence's elements; of others, the kind itself."""
    return kind[1][0] if kind[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE) else kind


def _check(type_name: str, names: list[str], fields: Any) -> None:
    if not type_name.replace("/", "__").isidentifier():
        raise TypesysError(f"Type {type_name!r} is no name of a message.")
    if len(set(map(normalize_fieldname, names))) < len(names):
        raise TypesysError(f"Type {type_name!r} has two members of one name.")
    for name, kind in fields:
        tag, what = _element(kind)
        if tag == Nodetype.BASE and what[0] not in _KNOWN:
            raise TypesysError(
                f"Type {type_name!r}: {name} is a {what[0]}, which is not supported."
            )


def _blind_to_case(fields: Any) -> list[Any]:
    """Return fields as rosbags compares them: ROS 1 and 2 differ in D and d of CameraInfo."""
    return [(name.lower(), kind) for name, kind in fields]
