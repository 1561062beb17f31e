"""Where a mechanism's coins and noise come from: a seed, or the operating system."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from privacy.events import Noise

if TYPE_CHECKING:
    import torch

_MANTISSA = 53  # bits of a float64


class Randomness(Protocol):
    """What a mechanism draws: all of it is secret, for whoever knows it can subtract the noise."""

    @property
    def source(self) -> Noise:
        """Where it comes from."""

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return independent uniform numbers in [0, 1), `(count,)`."""

    def normals(self, count: int) -> NDArray[np.float64]:
        """Return independent standard normals, `(count,)`."""

    def fill_normal(self, tensor: torch.Tensor) -> None:
        """Fill a tensor with independent standard normals, in place."""


class SeededRandomness:
    """For simulation: reproducible, and known to whoever knows the seed.

    Args:
        coins: For the uniform numbers.
        noise: For the normal ones.
    """

    source = Noise.SEEDED

    def __init__(self, coins: np.random.Generator, noise: torch.Generator) -> None:
        self._coins = coins
        self._noise = noise

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return independent uniform numbers in [0, 1), `(count,)`."""
        return self._coins.random(count)

    def normals(self, count: int) -> NDArray[np.float64]:
        """Return independent standard normals, `(count,)`."""
        import torch

        normals: NDArray[np.float64] = (
            torch.empty(count, dtype=torch.float64).normal_(generator=self._noise).numpy()
        )
        return normals

    def fill_normal(self, tensor: torch.Tensor) -> None:
        """Fill a tensor with independent standard normals, in place."""
        tensor.normal_(generator=self._noise)


class NumpyRandomness:
    """For simulation, as `SeededRandomness`, where no PyTorch is wanted.

    Args:
        generator: For all of it.
    """

    source = Noise.SEEDED

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return independent uniform numbers in [0, 1), `(count,)`."""
        return self._generator.random(count)

    def normals(self, count: int) -> NDArray[np.float64]:
        """Return independent standard normals, `(count,)`."""
        return self._generator.standard_normal(count)

    def fill_normal(self, tensor: torch.Tensor) -> None:
        """Fill a tensor with independent standard normals, in place."""
        _fill(tensor, self)


class SecretRandomness(ABC):
    """From bits that nobody else has.

    Normals are Box and Muller's (1958), in float64; what a float32 keeps of them leaves the attack of Mironov
    (2012) on the low bits open: the guarantee is that of the ideal, real-valued Gaussian.
    """

    source = Noise.SYSTEM

    @abstractmethod
    def _bytes(self, count: int) -> bytes:
        """Return independent, uniform bytes."""

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return independent uniform numbers in [0, 1), `(count,)`: multiples of 2^-53."""
        bits = np.frombuffer(self._bytes(8 * count), dtype=np.uint64)
        return (bits >> np.uint64(64 - _MANTISSA)).astype(np.float64) * 2.0**-_MANTISSA

    def normals(self, count: int) -> NDArray[np.float64]:
        """Return independent standard normals, `(count,)`."""
        pairs = (count + 1) // 2
        radius = np.sqrt(-2.0 * np.log1p(-self.uniforms(pairs)))  # of 1 - u, which is never 0
        angle = 2.0 * np.pi * self.uniforms(pairs)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

    def fill_normal(self, tensor: torch.Tensor) -> None:
        """Fill a tensor with independent standard normals, in place."""
        _fill(tensor, self)


class SystemRandomness(SecretRandomness):
    """From the operating system's generator, by nobody to be repeated."""

    def _bytes(self, count: int) -> bytes:
        return os.urandom(count)


class KeyedRandomness(SecretRandomness):
    """From a secret key of the operating system's making, to be drawn again by whoever keeps the key.

    The bits are AES-256-CTR's of zeros, under a key that HKDF-SHA256 makes of the secret and the purpose.

    Args:
        secret: 32 bytes of the operating system's generator.
        purpose: What is drawn; each purpose has bits of its own.
    """

    def __init__(self, secret: bytes, purpose: str) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import AES
        from cryptography.hazmat.primitives.ciphers.modes import CTR
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        if len(secret) != 32:
            raise ValueError(f"secret: has {len(secret)} bytes; 32 are needed")
        info = f"fedsim randomness 1: {purpose}".encode()
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)
        self._stream = Cipher(AES(key), CTR(bytes(16))).encryptor()

    def _bytes(self, count: int) -> bytes:
        return self._stream.update(bytes(count))


class DrawnRandomness:
    """Normals that were drawn before, and then another's.

    Args:
        drawn: The first normals, `(n,)`.
        rest: Has drawn them, and draws all that comes after, uniform numbers too.
    """

    def __init__(self, drawn: NDArray[np.float64], rest: Randomness) -> None:
        self._drawn = drawn
        self._rest = rest

    @property
    def source(self) -> Noise:
        """Where they come from."""
        return self._rest.source

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return independent uniform numbers in [0, 1), `(count,)`."""
        return self._rest.uniforms(count)

    def normals(self, count: int) -> NDArray[np.float64]:
        """Return independent standard normals, `(count,)`; those that were drawn before are returned once."""
        taken, self._drawn = self._drawn[:count], self._drawn[count:]
        if len(taken) == count:
            return taken
        return np.concatenate([taken, self._rest.normals(count - len(taken))])

    def fill_normal(self, tensor: torch.Tensor) -> None:
        """Fill a tensor with independent standard normals, in place."""
        _fill(tensor, self)


def laplaces(randomness: Randomness, count: int) -> NDArray[np.float64]:
    """Return independent numbers of Laplace's distribution of scale 1 (variance 2), `(count,)`.

    Each is the difference of two exponentials, so no number of a half-open interval has to be left out.
    """
    first, second = (-np.log1p(-randomness.uniforms(count)) for _ in range(2))
    return first - second


def _fill(tensor: torch.Tensor, randomness: Randomness) -> None:
    import torch

    tensor.copy_(torch.from_numpy(randomness.normals(tensor.numel())).reshape(tensor.shape))
