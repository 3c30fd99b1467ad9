"""Message definitions: a distribution's own set, a folder of .msg files, text from a bag."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from rosbags.typesys import (
    Stores,
    TypesysError,
    get_types_from_idl,
    get_types_from_msg,
    get_typestore,
)
from rosbags.typesys.store import Typestore

from offrl_contract.errors import InputError, nearest
from offrl_contract.lazy_typestore import LazyTypestore, types_below

DEFAULT_DISTRO = "kilted"
_IDL_RULE = "=" * 80 + "\n"


_DISTROS = {s.value.removeprefix("ros2_"): s for s in Stores if s.value.startswith("ros2_")}


def require_distro(distro: str) -> None:
    """Raise InputError unless a ROS 2 distribution is known."""
    if distro not in _DISTROS:
        raise InputError(f"--distro {distro}: unknown distribution.{nearest(distro, _DISTROS)}")


def distro_definitions(distro: str = DEFAULT_DISTRO) -> Typestore:
    """Return the definitions of a ROS 2 distribution. Raises InputError for an unknown one."""
    require_distro(distro)
    return get_typestore(_DISTROS[distro])


def noetic_definitions() -> Typestore:
    """Return the definitions of ROS 1 Noetic, whose headers carry a sequence number."""
    return get_typestore(Stores.ROS1_NOETIC)


def msg_files(folder: Path) -> list[Path]:
    """Return the .msg files below a folder."""
    return sorted(path for path in folder.rglob("*.msg") if path.is_file())


def add_folder(store: Typestore, folder: Path) -> None:
    """Register every `package/msg/Name.msg` below a folder. Raises InputError."""
    found = msg_files(folder)
    if not found:
        raise InputError(f"--msgs {folder}: no .msg file below it (package/msg/Name.msg)")
    for path in found:
        package = path.parent.parent if path.parent.name == "msg" else path.parent
        try:
            text = path.read_text("utf-8", errors="replace")  # a comment may be of another coding
        except OSError as error:
            raise InputError(f"--msgs {path}: cannot be read: {error.strerror}") from error
        add_text(store, f"{package.name}/msg/{path.stem}", text, str(path))


def add_text(store: Typestore, type_name: str, text: str, source: str) -> None:
    """Register one definition, in .msg or IDL form, with those it embeds. Raises InputError."""
    try:
        if text.startswith(f"{_IDL_RULE}IDL: "):
            for part in text.split(_IDL_RULE)[1:]:
                store.register(get_types_from_idl(part.split("\n", 1)[1]))
        else:
            store.register(get_types_from_msg(text, type_name))
    except (TypesysError, ValueError) as error:
        raise InputError(
            f"{source}: definition of {type_name} cannot be parsed: {error}"
        ) from error


def require_type(store: Typestore, type_name: str, where: str) -> None:
    """Raise InputError with the two remedies unless the type is known."""
    if type_name not in store.fielddefs:
        raise InputError(
            f"{where}: no definition of {type_name}. "
            "Remedies: --msgs DIR with its .msg file, or --distro of the recording."
        )


def missing_types(store: Typestore, type_name: str) -> set[str]:
    """Return the types below a type, itself included, that nobody defines. Raises InputError."""
    try:
        return {name for name in types_below(store, type_name) if name not in store.fielddefs}
    except TypesysError as error:
        raise InputError(f"definition of {type_name}: {error}") from error


def definition_texts(store: Typestore, type_names: Iterable[str]) -> dict[str, str]:
    """Return the full definition text by type, each with the definitions that it embeds."""
    return {name: store.generate_msgdef(name, ros_version=2)[0] for name in sorted(type_names)}


def definition_hashes(store: Typestore, type_names: Iterable[str]) -> dict[str, str]:
    """Return the RIHS01 type hash by type (REP-2011), as DDS discovery reports it."""
    return {name: store.hash_rihs01(name) for name in sorted(type_names)}


def from_texts(texts: Mapping[str, str], source: str) -> Typestore:
    """Build definitions from texts by type, as a dataset or policy file carries them."""
    store = LazyTypestore()
    for type_name, text in texts.items():
        add_text(store, type_name, text, source)
    return store
