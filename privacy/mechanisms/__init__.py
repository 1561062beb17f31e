"""Client-level mechanisms: what protects all that a client has, whoever's records they are.

`clip_jointly` bounds what a client adds to a sum; `CentralGaussian` and `AdaptiveClipping` noise a cohort's sum, on a
trusted server; `LocalNoise` noises a client's own update. Each release returns the event that describes it.
"""

from privacy.mechanisms.adaptive import AdaptiveClipping, AdaptiveRelease, shifted_bit
from privacy.mechanisms.clipping import Clipped, clip_jointly
from privacy.mechanisms.gaussian import CentralGaussian, Released
from privacy.mechanisms.local import LocallyReleased, LocalNoise
from privacy.mechanisms.rounding import sensitivity_after_rounding

__all__ = [
    "AdaptiveClipping",
    "AdaptiveRelease",
    "CentralGaussian",
    "Clipped",
    "LocalNoise",
    "LocallyReleased",
    "Released",
    "clip_jointly",
    "sensitivity_after_rounding",
    "shifted_bit",
]
