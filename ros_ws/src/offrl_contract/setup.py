from setuptools import setup

package = "offrl_contract"

setup(
    name=package,
    version="0.1.0",
    description="The contract between bag, simulator and robot: robot file, decoding, sampling",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[package],
    package_data={package: ["robots/*", "py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package}"]),
        (f"share/{package}", ["package.xml"]),
    ],
    install_requires=["numpy", "pydantic>=2", "PyYAML", "rosbags"],
    entry_points={
        "console_scripts": ["offrl = offrl_contract.cli:main"],
        "offrl.commands": ["inspect = offrl_contract.cli:inspect"],
    },
)
