"""Epsilon of noised releases for each adversary, by dp-accounting; imports no PyTorch.

DP-SGD in the clients: `LocalSteps` describes one participation, `known_cohort` and `released_models` give its
epsilon, `smallest_noise` calibrates the noise, `worst` and `spread` summarise many clients. Client-level mechanisms
have their accounts in their own packages.
"""

from fedsim.privacy.accounting.adversaries import (
    Adversary,
    KnownCohort,
    ReleasedModels,
    known_cohort,
    released_models,
    spread,
    worst,
)
from fedsim.privacy.accounting.calibration import smallest_noise
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
