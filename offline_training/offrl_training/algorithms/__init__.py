"""The algorithms by name."""

from typing import Any

from offrl_training.algorithms.base import Algorithm
from offrl_training.algorithms.bc import BC
from offrl_training.algorithms.bcq import BCQ
from offrl_training.algorithms.cql import CQL
from offrl_training.algorithms.iql import IQL
from offrl_training.algorithms.td3_bc import TD3BC

ALGORITHMS: dict[str, type[Algorithm[Any]]] = {
    "bc": BC,
    "td3_bc": TD3BC,
    "iql": IQL,
    "cql": CQL,
    "bcq": BCQ,
}
