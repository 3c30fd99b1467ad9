"""Message packages that PyPI lacks: made from their definitions by ROS's own generators.

PyPI has the generators, and the headers and libraries of the packages that these build upon.
"""

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest

TF2_MSGS = {"TFMessage": "geometry_msgs/TransformStamped[] transforms\n"}
ACKERMANN_MSGS = {
    "AckermannDrive": "float32 steering_angle\nfloat32 steering_angle_velocity\n"
    "float32 speed\nfloat32 acceleration\nfloat32 jerk\n",
    "AckermannDriveStamped": "std_msgs/Header header\nackermann_msgs/AckermannDrive drive\n",
}
LIBRARIES = (
    *(
        f"{package}__rosidl_{part}"
        for package in ("geometry_msgs", "std_msgs")
        for part in ("generator_c", "generator_py", "typesupport_c", "typesupport_fastrtps_c")
    ),
    "rosidl_runtime_c",
    "rosidl_typesupport_c",
    "rosidl_typesupport_fastrtps_c",
    "rcutils",
    "fastcdr",
    "stdc++",
)
TYPE_SUPPORT = "rosidl_typesupport_fastrtps_c"
BUILD_SECONDS = 120


def provide(
    package: str, definitions: dict[str, str], folder: Path, patch: pytest.MonkeyPatch
) -> None:
    """Put a package on the Python path of this process and its children, built if need be.

    Skips the test where there is no compiler.
    """
    if importlib.util.find_spec(package):
        return
    if not shutil.which("gcc") or not shutil.which("g++"):
        pytest.skip(f"{package} is not installed, and there is no g++ to build it with")
    spec = importlib.util.find_spec("geometry_msgs")
    assert spec is not None
    assert spec.origin is not None
    prefix = Path(spec.origin).parents[4]
    patch.setenv("AMENT_PREFIX_PATH", str(prefix))  # where the generators find their templates
    _compile(package, folder, prefix, _generate(package, definitions, folder, prefix))
    patch.syspath_prepend(folder)
    patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


def _generate(package: str, definitions: dict[str, str], folder: Path, prefix: Path) -> list[Path]:
    """Write C, Python and type support; return what is to be compiled."""
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_typesupport_c.cli import GenerateCTypesupport
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport

    (folder / "msg").mkdir()
    for name, text in definitions.items():
        (folder / "msg" / f"{name}.msg").write_text(text)
    headers, python = folder / "include" / package, folder / package
    for generator, out in (
        (GenerateC("c"), headers),
        (GenerateCTypesupport("c", typesupport_implementations=[TYPE_SUPPORT]), headers),
        (GenerateFastRTPSCTypesupport("fastrtps_c"), headers),
        (GeneratePython("py", typesupport_implementations=["rosidl_typesupport_c"]), python),
    ):
        generator.generate(
            package_name=package,
            interface_files=[f"{folder}:msg/{name}.msg" for name in definitions],
            include_paths=[str(prefix / "share")],
            output_path=out,
        )
    (python / "__init__.py").touch()
    return [*sorted(folder.rglob("*.c")), *sorted(folder.rglob("*.cpp"))]


def _compile(package: str, folder: Path, prefix: Path, sources: list[Path]) -> None:
    """Compile everything into the one module that rclpy loads."""
    own = [folder / "include", np.get_include(), sysconfig.get_path("include")]
    theirs = prefix / "include"
    includes = [*own, theirs, *(path for path in theirs.iterdir() if path.is_dir())]
    command = [
        *("gcc", "-shared", "-fPIC", "-O1", f"-L{prefix / 'lib'}", f"-Wl,-rpath,{prefix / 'lib'}"),
        *(f"-I{path}" for path in includes),
        *map(str, sources),
        *(f"-l{name}" for name in LIBRARIES),
        *("-o", str(folder / package / f"{package}_s__rosidl_typesupport_c.so")),
    ]
    subprocess.run(command, check=True, timeout=BUILD_SECONDS)
