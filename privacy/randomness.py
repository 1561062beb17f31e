"""Randomness of a mechanism's coins and noise: seeded, or from the operating system; drawn on demand, or ahead."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.events import Noise

if TYPE_CHECKING:
    import torch

_MANTISSA = 53  # bits of a float64


class Randomness(Protocol):
    """Source of a mechanism's random numbers. All of them are secret: known noise can be subtracted."""

    @property
    def source(self) -> Noise:
        """Where it comes from."""

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return independent uniform numbers in [0, 1), `(count,)`."""

    def normals(self, count: int) -> NDArray[np.float64]:
        """Return independent standard normals, `(count,)`."""

    def fill_normal(self, tensor: torch.Tensor) -> None:
        """Fill a contiguous tensor with independent standard normals, in place."""
        import torch

        tensor.copy_(torch.from_numpy(self.normals(tensor.numel())).reshape(tensor.shape))


class NumpyRandomness(Randomness):
    """For simulation: reproducible, and known to anyone who has the seed.

    Args:
        generator: Draws normals.
        coins: Draws uniform numbers; None: `generator` does.
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
            super().fill_normal(tensor)


class SeededRandomness(NumpyRandomness):
    """For simulation, with PyTorch's fast float32 normals (`Arithmetic.FLOAT32`).

    Args:
        coins: Draws uniform numbers.
        noise: Draws normals.
    """

    def __init__(self, coins: np.random.Generator, noise: torch.Generator) -> None:
        super().__init__(coins)
        self._noise = noise

    def normals(self, count: int) -> NDArray[np.float64]:
        """Return independent standard normals, `(count,)`."""
        import torch

        drawn = torch.empty(count, dtype=torch.float64)
        self.fill_normal(drawn)
        normals: NDArray[np.float64] = drawn.numpy()
        return normals

    def fill_normal(self, tensor: torch.Tensor) -> None:
        """Fill a tensor with independent standard normals, in place."""
        tensor.normal_(generator=self._noise)


class SecretRandomness(Randomness, ABC):
    """Randomness from secret bits.

    Normals are by Box and Muller (1958), in float64: multiples of less than 2^-50 except in the tails, and never
    beyond 8.6, which a true normal exceeds with probability 2^-56. They must be added on a grid
    (`fedsim.privacy.arithmetic`).
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


class SystemRandomness(SecretRandomness):
    """From the operating system's generator; its draws can't be repeated."""

    def _bytes(self, count: int) -> bytes:
        return os.urandom(count)


class KeyedRandomness(SecretRandomness):
    """From a secret key drawn by the operating system; the key's owner can repeat its draws.

    The bits are the key stream of AES-256-CTR under a key that HKDF-SHA256 derives from the secret and the purpose.

    Args:
        secret: 32 bytes of the operating system's generator.
        purpose: Label of the stream; each has its own bits.
    """

    def __init__(self, secret: bytes, purpose: str) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        if len(secret) != 32:
            raise ValueError(f"secret: has {len(secret)} bytes; 32 are needed")
        info = f"fedsim randomness 1: {purpose}".encode()
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def _bytes(self, count: int) -> bytes:
        return self._stream.update(bytes(count))


@dataclass
class DrawnRandomness(Randomness):
    """Normals drawn in advance, followed by another source's.

    Attributes:
        drawn: The first normals, `(n,)`.
        rest: The source that drew them; draws all later numbers, uniform ones too.
    """

    drawn: NDArray[np.float64]
    rest: Randomness

    @property
    def source(self) -> Noise:
        """Where they come from."""
        return self.rest.source

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return independent uniform numbers in [0, 1), `(count,)`."""
        return self.rest.uniforms(count)

    def normals(self, count: int) -> NDArray[np.float64]:
        """Return independent standard normals, `(count,)`; first those drawn in advance."""
        taken, self.drawn = self.drawn[:count], self.drawn[count:]
        if len(taken) == count:
            return taken
        return np.concatenate([taken, self.rest.normals(count - len(taken))])


class Prefetch:
    """The randomness of each round; after `begin`, another thread draws the round's normals.

    A round without `begin` draws them on demand.

    Args:
        randomness: Returns a round's randomness.
        size: Normals to draw ahead in a round.
    """

    def __init__(self, randomness: Callable[[int], Randomness], size: int) -> None:
        self._randomness = randomness
        self._size = size
        self._thread = ThreadPoolExecutor(1, "noise")
        self._begun: tuple[int, Randomness, Future[NDArray[np.float64]]] | None = None

    def begin(self, round_: int) -> None:
        """Begin to draw a round's normals."""
        randomness = self._randomness(round_)
        self._begun = round_, randomness, self._thread.submit(randomness.normals, self._size)

    def __call__(self, round_: int) -> Randomness:
        """Return a round's randomness, from its beginning."""
        begun, self._begun = self._begun, None
        if begun is None or begun[0] != round_:
            return self._randomness(round_)
        _, randomness, drawn = begun
        return DrawnRandomness(drawn.result(), randomness)


def laplaces(randomness: Randomness, count: int) -> NDArray[np.float64]:
    """Return independent numbers of Laplace's distribution of scale 1 (variance 2), `(count,)`.

    Each is the difference of two exponentials, and dense in the tails too: multiples of about 2^-53 up to 36 scales,
    which a number exceeds with probability 2^-52.
    """
    return _exponentials(randomness, count) - _exponentials(randomness, count)


def _exponentials(randomness: Randomness, count: int) -> NDArray[np.float64]:
    """Return independent exponentials of scale 1, `(count,)`.

    An exponential is a geometric number of ln 2, here the leading zeros of a uniform number, plus an exponential
    below ln 2. So the coarseness of uniform numbers near 0 or 1 does not affect its tail.
    """
    _, exponents = np.frexp(np.maximum(randomness.uniforms(count), 2.0**-_MANTISSA))
    return -exponents * math.log(2) - np.log1p(-randomness.uniforms(count) / 2)
