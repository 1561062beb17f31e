"""Where a mechanism's coins and noise come from: a seed, or the operating system."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.events import Noise

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
    """For simulation, as `NumpyRandomness`, with PyTorch's fast float32 normals (`Arithmetic.FLOAT32`).

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
    """For simulation: reproducible, and known to everybody who has the seed.

    Args:
        generator: For the normal numbers.
        coins: For the uniform ones; None: the same.
    """

    source = Noise.SEEDED

    def __init__(self, generator: np.random.Generator, coins: np.random.Generator | None = None) -> None:
        self._generator = generator
        self._coins = generator if coins is None else coins

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return independent uniform numbers in [0, 1), `(count,)`."""
        return self._coins.random(count)

    def normals(self, count: int) -> NDArray[np.float64]:
        """Return independent standard normals, `(count,)`."""
        return self._generator.standard_normal(count)

    def fill_normal(self, tensor: torch.Tensor) -> None:
        """Fill a contiguous tensor with independent standard normals, in place."""
        import torch

        if tensor.dtype == torch.float64:
            self._generator.standard_normal(out=tensor.view(-1).numpy())
        else:
            _fill(tensor, self)


class SecretRandomness(ABC):
    """From bits that nobody else has.

    Normals are Box and Muller's (1958), in float64: multiples of less than 2^-50 but far out, and never beyond 8.6, which
    a normal is with probability 2^-56. They are to be added on a grid (`fedsim.privacy.arithmetic`).
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

    Each is the difference of two exponentials, and dense far out too: multiples of about 2^-53 up to 36 scales, beyond
    which a number is with probability 2^-52.
    """
    return _exponentials(randomness, count) - _exponentials(randomness, count)


def _exponentials(randomness: Randomness, count: int) -> NDArray[np.float64]:
    """Return independent exponentials of scale 1, `(count,)`.

    An exponential is a geometric number of ln 2, here the leading zeros of a uniform number, and an exponential that is
    below ln 2. So its density far out does not suffer from how coarse a uniform number is near 0 or 1.
    """
    _, exponents = np.frexp(np.maximum(randomness.uniforms(count), 2.0**-_MANTISSA))
    return -exponents * math.log(2) - np.log1p(-randomness.uniforms(count) / 2)


def _fill(tensor: torch.Tensor, randomness: Randomness) -> None:
    import torch

    tensor.copy_(torch.from_numpy(randomness.normals(tensor.numel())).reshape(tensor.shape))
