from setuptools import setup

package = "offrl_data"

setup(
    name=package,
    version="0.1.0",
    description="Bags to datasets for offline reinforcement learning",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[package, f"{package}.formats", f"{package}.storage"],
    package_data={package: ["*.html"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package}"]),
        (f"share/{package}", ["package.xml"]),
    ],
    install_requires=[
        "offrl_contract",
        "apsw",
        "h5py",
        "lz4",
        "numpy",
        "pillow",
        "plotly",
        "rich",
        "rosbags",
        "tyro",
        "xxhash",
        "zstandard",
    ],
    extras_require={"formats": ["pyarrow"]},
    entry_points={
        "offrl.commands": [
            "convert = offrl_data.commands:convert",
            "dataset = offrl_data.formats.commands:dataset",
            "report = offrl_data.report:report",
        ],
        "offrl.inspectors": [
            "bag = offrl_data.commands:inspect_bag",
            "db3 = offrl_data.commands:inspect_bag",
            "mcap = offrl_data.commands:inspect_bag",
            "folder = offrl_data.commands:inspect_bag",
            "h5 = offrl_data.commands:inspect_dataset",
            "hdf5 = offrl_data.commands:inspect_dataset",
        ],
    },
)
