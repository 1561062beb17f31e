"""Correlated noise by matrix factorisation (DP-FTRL): privacy that rests on no sampling; imports no PyTorch.

`Participation` says how often and how far apart a client takes part, `History` holds it to that; `banded`, `buffered`
(BLT) and others make a `Mechanism` of it, which knows its sensitivity and error and streams its `Noise`; `plan` finds
the noise for an epsilon; `CorrelatedGaussian` releases a training's rounds. What it costs: `fedsim.privacy.accounting.matrix`.
"""

from fedsim.privacy.mechanisms.matrix.mechanism import (
    BUFFERS,
    Mechanism,
    banded,
    buffered,
    independent,
    square_root_banded,
    square_root_toeplitz,
)
from fedsim.privacy.mechanisms.matrix.noise import Noise
from fedsim.privacy.mechanisms.matrix.participation import History, Participation
from fedsim.privacy.mechanisms.matrix.plan import Plan, alternatives, plan
from fedsim.privacy.mechanisms.matrix.release import CorrelatedGaussian
from fedsim.privacy.mechanisms.matrix.strategies import Banded, Buffered, Strategy
from fedsim.privacy.mechanisms.matrix.toeplitz import Objective

__all__ = [
    "BUFFERS",
    "Banded",
    "Buffered",
    "CorrelatedGaussian",
    "History",
    "Mechanism",
    "Noise",
    "Objective",
    "Participation",
    "Plan",
    "Strategy",
    "alternatives",
    "banded",
    "buffered",
    "independent",
    "plan",
    "square_root_banded",
    "square_root_toeplitz",
]
