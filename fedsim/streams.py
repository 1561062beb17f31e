"""Random streams, each named by what it is for.

A stream is determined by `(seed, purpose, round, client)` and by nothing else, so the order in which
clients run, the process that runs them and the number of workers leave every draw as it was. Nothing in
fedsim draws from a global generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _digest(seed: int, purpose: str, round_: int, client: int) -> bytes:
    name = f"fedsim/{seed}/{purpose}/{round_}/{client}".encode()
    return hashlib.blake2b(name, digest_size=16).digest()


def numpy_stream(seed: int, purpose: str, *, round_: int = 0, client: int = 0) -> np.random.Generator:
    """Return the NumPy generator of one named stream.

    The stream is Philox 4x64 (Salmon et al. 2011) keyed by the BLAKE2b hash of the name: a 128-bit key, so
    that two names share a stream with probability about 2^-128.

    Args:
        seed: The experiment's seed.
        purpose: What the numbers are for, for example ``"cohort"``.
        round_: The round, from 1; 0 where there is none.
        client: The client's index; 0 where there is none.

    >>> numpy_stream(0, "cohort", round_=1).integers(1000, size=3).tolist()
    [111, 13, 713]
    """
    key = int.from_bytes(_digest(seed, purpose, round_, client), "little")
    return np.random.Generator(np.random.Philox(key=key))


def noise_stream(seed: int, purpose: str, *, round_: int = 0, client: int = 0) -> np.random.Generator:
    """Return another NumPy generator of one named stream, for many normals; arguments as in `numpy_stream`.

    PCG-64-DXSM, seeded by the same hash, draws float64 normals in four fifths of Philox's time.
    """
    key = int.from_bytes(_digest(seed, purpose, round_, client), "little")
    return np.random.Generator(np.random.PCG64DXSM(key))


def _torch_seed(seed: int, purpose: str, round_: int, client: int) -> int:
    return int.from_bytes(_digest(seed, purpose, round_, client)[:8], "little")


def torch_stream(seed: int, purpose: str, *, round_: int = 0, client: int = 0) -> torch.Generator:
    """Return the PyTorch generator (CPU) of one named stream; arguments as in `numpy_stream`."""
    import torch

    return torch.Generator().manual_seed(_torch_seed(seed, purpose, round_, client))


@contextmanager
def torch_draws_from(seed: int, purpose: str, *, round_: int = 0, client: int = 0) -> Iterator[None]:
    """Let PyTorch's default generator (CPU) draw from one named stream inside the block.

    Layers initialise themselves, and dropout draws, from the default generator. Its own state is put back at
    the end, so the caller's program draws what it would have drawn anyway. Arguments as in `numpy_stream`.
    """
    import torch

    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(_torch_seed(seed, purpose, round_, client))
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
