"""Where a mechanism's coins and noise come from: a seed, or the operating system."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_MANTISSA = 53  # bits of a float64


class Randomness(Protocol):
    """What a mechanism draws: all of it is secret, for whoever knows it can subtract the noise."""

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return independent uniform numbers in [0, 1), `(count,)`."""

    def fill_normal(self, tensor: torch.Tensor) -> None:
        """Fill a tensor with independent standard normals, in place."""


class SeededRandomness:
    """For simulation: reproducible, and known to whoever knows the seed.

    Args:
        coins: For the uniform numbers.
        noise: For the normal ones.
    """

    def __init__(self, coins: np.random.Generator, noise: torch.Generator) -> None:
        self._coins = coins
        self._noise = noise

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return independent uniform numbers in [0, 1), `(count,)`."""
        return self._coins.random(count)

    def fill_normal(self, tensor: torch.Tensor) -> None:
        """Fill a tensor with independent standard normals, in place."""
        tensor.normal_(generator=self._noise)


class SystemRandomness:
    """From the operating system's generator, by nobody to be repeated.

    Normals are Box and Muller's (1958), in float64; what a float32 keeps of them leaves the attack of Mironov
    (2012) on the low bits open: the guarantee is that of the ideal, real-valued Gaussian.
    """

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return independent uniform numbers in [0, 1), `(count,)`: multiples of 2^-53."""
        bits = np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
        return (bits >> np.uint64(64 - _MANTISSA)).astype(np.float64) * 2.0**-_MANTISSA

    def fill_normal(self, tensor: torch.Tensor) -> None:
        """Fill a tensor with independent standard normals, in place."""
        import torch

        pairs = (tensor.numel() + 1) // 2
        radius = np.sqrt(-2.0 * np.log1p(-self.uniforms(pairs)))  # of 1 - u, which is never 0
        angle = 2.0 * np.pi * self.uniforms(pairs)
        normals = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: tensor.numel()]
        tensor.copy_(torch.from_numpy(normals).reshape(tensor.shape))
