"""What noised releases cost: epsilon for each adversary, by dp-accounting; imports no PyTorch.

DP-SGD in the clients: `LocalSteps` says what a client releases in a participation, `known_cohort` and
`released_models` what it costs, `smallest_noise` how much noise an epsilon takes, `worst` and `spread` how it is over
many clients. The accounts of client-level mechanisms are in their packages.
"""

from fedsim.privacy.accounting.adversaries import (
    Adversary,
    KnownCohort,
    ReleasedModels,
    known_cohort,
    released_models,
)
from fedsim.privacy.accounting.calibration import smallest_noise
from fedsim.privacy.accounting.clients import spread, worst
from fedsim.privacy.accounting.steps import Epsilon, LocalSteps, NoTheorem

__all__ = [
    "Adversary",
    "Epsilon",
    "KnownCohort",
    "LocalSteps",
    "NoTheorem",
    "ReleasedModels",
    "known_cohort",
    "released_models",
    "smallest_noise",
    "spread",
    "worst",
]
