"""Client-level mechanisms: what protects all that a client has, whoever's records they are.

`clip_jointly` bounds what a client adds to a sum, `shifted` what it says beside; `CentralGaussian` and
`AdaptiveClipping` noise a cohort's sums, on a trusted server; `LocalNoise` noises a client's own update. Each release
returns the event that describes it.
"""

from fedsim.privacy.mechanisms.adaptive import BITS, AdaptiveClipping, AdaptiveRelease, shifted_bit
from fedsim.privacy.mechanisms.clipping import Clipped, clip_jointly
from fedsim.privacy.mechanisms.gaussian import CentralGaussian, Released
from fedsim.privacy.mechanisms.local import LocallyReleased, LocalNoise
from fedsim.privacy.mechanisms.metrics import BoundedMetric, shifted
from fedsim.privacy.mechanisms.rounding import sensitivity_after_rounding

__all__ = [
    "BITS",
    "AdaptiveClipping",
    "AdaptiveRelease",
    "BoundedMetric",
    "CentralGaussian",
    "Clipped",
    "LocalNoise",
    "LocallyReleased",
    "Released",
    "clip_jointly",
    "sensitivity_after_rounding",
    "shifted",
    "shifted_bit",
]
