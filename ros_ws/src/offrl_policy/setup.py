from setuptools import setup

package = "offrl_policy"
DEPLOY = ("Dockerfile", "gate.foxglove.json", "offrl-policy.service", "policy.xml")

setup(
    name=package,
    version="0.1.0",
    description="A policy behind a safety gate, as a ROS 2 lifecycle node",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[package],
    package_data={package: ["parameters.yaml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package}"]),
        (f"share/{package}", ["package.xml"]),
        (f"share/{package}/config", ["config/policy.yaml"]),
        (f"share/{package}/launch", ["launch/policy.launch.py"]),
        (f"share/{package}/deploy", [f"deploy/{name}" for name in DEPLOY]),
    ],
    install_requires=["offrl_contract", "numpy", "onnxruntime", "pydantic>=2", "PyYAML"],
    extras_require={"signatures": ["cryptography"]},
    entry_points={
        "console_scripts": ["policy_node = offrl_policy.node:main"],
        "offrl.commands": [
            "serve = offrl_policy.commands:serve",
            "replay = offrl_policy.commands:replay",
        ],
        "offrl.inspectors": ["onnx = offrl_policy.commands:inspect_policy"],
    },
)
