"""What noised releases cost: epsilon for each adversary, by dp-accounting; imports no PyTorch.

DP-SGD in the clients: `LocalSteps` says what a client releases in a participation, `known_cohort` and
`released_models` what it costs, `smallest_noise` how much noise an epsilon takes, `worst` and `spread` how it is over
many clients. Client-level privacy has a module for each trust: `central` (the server noises a cohort's sum) and `local`
(each client its own update).
"""

from fedsim.privacy.accounting import central, local
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
    "central",
    "known_cohort",
    "local",
    "released_models",
    "smallest_noise",
    "spread",
    "worst",
]
