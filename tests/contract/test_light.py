"""The robot packages run where nothing of the workstation is installed."""

import subprocess
import sys

BLOCKED = ("torch", "h5py", "pybullet", "gymnasium", "tyro", "onnx", "rich", "matplotlib", "scipy")
CODE = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
names = []
for package in ("offrl_contract", "offrl_policy"):
    module = importlib.import_module(package)
    for each in pkgutil.iter_modules(module.__path__, package + "."):
        importlib.import_module(each.name)
        names.append(each.name)
assert "offrl_policy.node" in names and "offrl_contract.live" in names, names
print(len(names))
"""


def test_robot_packages_import_with_the_workstation_blocked() -> None:
    code = CODE.format(blocked=BLOCKED)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 15


def test_the_block_blocks() -> None:
    code = CODE.format(blocked=("numpy",))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "numpy is blocked" in done.stderr
