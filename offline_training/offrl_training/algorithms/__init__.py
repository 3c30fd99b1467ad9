"""The algorithms by name."""

from typing import Any

from offrl_training.algorithms.atac import ATAC
from offrl_training.algorithms.awac import AWAC
from offrl_training.algorithms.base import Algorithm
from offrl_training.algorithms.bc import BC
from offrl_training.algorithms.bc_gaussian import BCGaussian
from offrl_training.algorithms.bcq import BCQ
from offrl_training.algorithms.bear import BEAR
from offrl_training.algorithms.brac import BRAC
from offrl_training.algorithms.cal_ql import CalQL
from offrl_training.algorithms.cql import CQL
from offrl_training.algorithms.crr import CRR
from offrl_training.algorithms.iql import IQL
from offrl_training.algorithms.rlpd import RLPD
from offrl_training.algorithms.sac import SAC
from offrl_training.algorithms.spibb import SPIBB
from offrl_training.algorithms.td3 import TD3
from offrl_training.algorithms.td3_bc import TD3BC

ALGORITHMS: dict[str, type[Algorithm[Any]]] = {
    "bc": BC,
    "bc_gaussian": BCGaussian,
    "td3": TD3,
    "td3_bc": TD3BC,
    "iql": IQL,
    "sac": SAC,
    "rlpd": RLPD,
    "cql": CQL,
    "cal_ql": CalQL,
    "awac": AWAC,
    "crr": CRR,
    "atac": ATAC,
    "bcq": BCQ,
    "bear": BEAR,
    "brac": BRAC,
    "spibb": SPIBB,
}
