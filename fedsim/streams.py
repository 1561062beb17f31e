"""Random streams, each named by its purpose.

A stream is determined by `(seed, purpose, round, client)` and by nothing else, so the order in which clients run, the
process that runs them and the number of workers change no draw. Nothing in fedsim draws from a global generator.
"""

from __future__ import annotations

import hashlib
import os
import random  # noqa: TID251 (seeded here for what draws from it)
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def _key(seed: int, purpose: str, round_: int, client: int) -> int:
    """Return the 128-bit key of a stream."""
    name = f"fedsim/{seed}/{purpose}/{round_}/{client}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")


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
    return np.random.Generator(np.random.Philox(key=_key(seed, purpose, round_, client)))


def noise_stream(seed: int, purpose: str, *, round_: int = 0, client: int = 0) -> np.random.Generator:
    """Return another NumPy generator of one named stream, for many normals; arguments as in `numpy_stream`.

    PCG-64-DXSM, seeded by the same hash, draws float64 normals in four fifths of Philox's time.
    """
    return np.random.Generator(np.random.PCG64DXSM(_key(seed, purpose, round_, client)))


def torch_stream(seed: int, purpose: str, *, round_: int = 0, client: int = 0) -> torch.Generator:
    """Return the PyTorch generator (CPU) of one named stream; arguments as in `numpy_stream`."""
    import torch

    return torch.Generator().manual_seed(_key(seed, purpose, round_, client) % 2**64)


@contextmanager
def torch_draws_from(seed: int, purpose: str, *, round_: int = 0, client: int = 0) -> Iterator[None]:
    """Let PyTorch's default generator (CPU) draw from one named stream inside the block.

    Layers initialise themselves, and dropout draws, from the default generator. Its own state is restored at the end,
    so the caller's program is not affected. Arguments as in `numpy_stream`.
    """
    with _torch_draws(torch_stream(seed, purpose, round_=round_, client=client).get_state()):
        yield


@contextmanager
def torch_draws_from_system() -> Iterator[None]:
    """Let PyTorch's default generator (CPU) draw secret, unrepeatable numbers inside the block; as `torch_draws_from`.

    The whole state of the generator, a Mersenne Twister (Matsumoto and Nishimura 1998), comes from the operating
    system: 19,937 bits, which determine the next 624 words of 32 bits bijectively. PyTorch's own seed has 32 bits
    (the rest of a longer one is dropped), few enough for brute force. Enough observed draws predict all later ones:
    use it for unobserved draws such as dropout masks, not for noise.

    Raises:
        RuntimeError: This version of PyTorch has another state layout.
    """
    import torch

    state = torch.Generator().manual_seed(_KNOWN_SEED).get_state()
    words = state.numpy()[_WORDS].view(np.uint64)  # of 32 bits each
    if len(words) != len(_known_words()) or (words != _known_words()).any():
        raise RuntimeError(
            f"PyTorch {torch.__version__} keeps its generator's state otherwise than is known here"
        )
    words[:] = np.frombuffer(os.urandom(4 * len(words)), dtype=np.uint32)
    with _torch_draws(state):
        yield


@contextmanager
def all_draws_from(seed: int, purpose: str, *, round_: int = 0, client: int = 0) -> Iterator[None]:
    """As `torch_draws_from`, and let the global generators of NumPy and Python draw from the stream too."""
    key = _key(seed, purpose, round_, client).to_bytes(16, "little")
    with torch_draws_from(seed, purpose, round_=round_, client=client), _seeded_by(key):
        yield


@contextmanager
def all_draws_from_system() -> Iterator[None]:
    """As `torch_draws_from_system`, and let the global generators of NumPy and Python draw such numbers too."""
    with torch_draws_from_system(), _seeded_by(os.urandom(4 * 624)):
        yield


@contextmanager
def _seeded_by(key: bytes) -> Iterator[None]:
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 (they are what users' models draw from)
    random.seed(key)
    np.random.seed(np.frombuffer(key, dtype=np.uint32))  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def global_states() -> tuple[object, ...]:
    """Return the states of the global generators of PyTorch (CPU), NumPy and Python, to be compared."""
    import torch

    numpy_state = [part.tobytes() if isinstance(part, np.ndarray) else part for part in np.random.get_state()]  # noqa: NPY002
    return torch.default_generator.get_state().numpy().tobytes(), tuple(numpy_state), random.getstate()


_KNOWN_SEED = 5489
_WORDS = slice(24, 24 + 8 * 624)  # bytes of the state: after the seed, and how many words are left


def _known_words() -> NDArray[np.uint64]:
    """Return the state that the generator has after `_KNOWN_SEED`, by its definition."""
    words = [_KNOWN_SEED]
    for i in range(1, 624):
        words.append((1812433253 * (words[-1] ^ words[-1] >> 30) + i) % 2**32)
    return np.array(words, dtype=np.uint64)


@contextmanager
def _torch_draws(state: torch.Tensor) -> Iterator[None]:
    import torch

    before = torch.default_generator.get_state()
    torch.default_generator.set_state(state)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
