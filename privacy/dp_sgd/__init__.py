"""DP-SGD (Abadi et al. 2016): the gradient of a batch, clipped example by example and noised."""

from fedsim.privacy.dp_sgd.gradient import KERNELS, Kernel, PrivateGradient
from fedsim.privacy.dp_sgd.independence import check_independent
from fedsim.privacy.dp_sgd.state import Untrained, check_state
from fedsim.privacy.dp_sgd.validator import check_model

__all__ = [
    "KERNELS",
    "Kernel",
    "PrivateGradient",
    "Untrained",
    "check_independent",
    "check_model",
    "check_state",
]
