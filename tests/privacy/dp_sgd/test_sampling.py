import hmac
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsim.privacy.dp_sgd.release import Batches
from fedsim.privacy.events import Noise, Sampling
from fedsim.privacy.randomness import (
    KeyedRandomness,
    NumpyRandomness,
    Randomness,
    SeededRandomness,
    SystemRandomness,
)

LEVEL = 1e-6  # of the tests whose draws are the operating system's, and new each time


def seeded(seed: int) -> SeededRandomness:
    return SeededRandomness(np.random.Generator(np.random.Philox(seed)), torch.Generator().manual_seed(seed))


@given(
    records=st.integers(1, 5000),
    batch=st.integers(1, 200),
    epochs=st.integers(1, 5),
)
def test_no_record_count_makes_an_expected_batch_of_nothing(records: int, batch: int, epochs: int) -> None:
    # Opacus' make_private gives 0 for 49 records at batch size 1, and loses steps for 93 records.
    batches = Batches.of(records, batch, epochs=epochs)
    assert batches.denominator == min(batch, records) >= 1
    assert batches.rate * records == pytest.approx(batches.denominator)
    assert batches.steps == epochs * -(-records // batch)


def test_a_public_rate_leaves_nothing_to_the_number_of_records() -> None:
    first, second = (Batches.of(records, 10, steps=7, rate=0.25) for records in (40, 41))
    assert (first.rate, first.steps, first.denominator) == (second.rate, second.steps, second.denominator)
    assert first.denominator == 10


@pytest.mark.parametrize("randomness", [seeded(0), SystemRandomness()], ids=["seeded", "system"])
def test_records_are_drawn_independently(randomness: Randomness) -> None:
    batches = Batches.of(4, 1)  # rate 1/4, mean 1: the 16 subsets have known probabilities
    draws = Counter(tuple(batches.draw(randomness)) for _ in range(20_000))
    subsets = [subset for size in range(5) for subset in combinations(range(4), size)]
    expected = [20_000 * 0.25 ** len(s) * 0.75 ** (4 - len(s)) for s in subsets]
    assert stats.chisquare([draws[s] for s in subsets], expected).pvalue > LEVEL
    wrong = [20_000 * 0.3 ** len(s) * 0.7 ** (4 - len(s)) for s in subsets]
    assert stats.chisquare([draws[s] for s in subsets], wrong).pvalue < LEVEL  # the control


def test_of_too_many_records_a_uniformly_random_subset_stays() -> None:
    batches = Batches.of(5, 5, max_batch=2)  # all five are drawn, two stay
    assert batches.sampling is Sampling.TRUNCATED_POISSON
    randomness = seeded(1)
    draws = Counter(tuple(batches.draw(randomness)) for _ in range(10_000))
    assert set(draws) == set(combinations(range(5), 2))
    assert stats.chisquare(list(draws.values())).pvalue > LEVEL


def test_a_batch_may_be_empty() -> None:
    randomness = seeded(2)
    sizes = {len(Batches.of(3, 1).draw(randomness)) for _ in range(200)}
    assert 0 in sizes


SOURCES = {
    "seeded": seeded(3),
    "numpy": NumpyRandomness(np.random.default_rng(3)),
    "system": SystemRandomness(),
    "keyed": KeyedRandomness(bytes(32), "a test"),
}


@pytest.mark.parametrize("randomness", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("shape", [(30_001,), (3, 10_000)])
def test_normals_are_standard_normals(randomness: Randomness, shape: tuple[int, ...]) -> None:
    tensor = torch.zeros(shape)
    randomness.fill_normal(tensor)
    values = tensor.flatten().double().numpy()
    assert stats.kstest(values, "norm").pvalue > LEVEL
    assert stats.kstest(1.1 * values, "norm").pvalue < LEVEL  # the control
    assert stats.pearsonr(values[:15_000], values[15_000:30_000]).pvalue > LEVEL  # Box and Muller's pairs


@pytest.mark.parametrize("name", SOURCES)
def test_normals_for_numpy_are_float64_of_any_count(name: str) -> None:
    randomness = SOURCES[name]
    assert randomness.source is (Noise.SYSTEM if name in ("system", "keyed") else Noise.SEEDED)
    assert [randomness.normals(count).shape for count in (0, 1, 7)] == [(0,), (1,), (7,)]
    values = randomness.normals(30_000)
    assert values.dtype == np.float64
    assert stats.kstest(values, "norm").pvalue > LEVEL
    assert stats.kstest(1.1 * values, "norm").pvalue < LEVEL  # the control
    assert len(np.unique(values)) == len(values)  # no float32 in between, of which some would meet


def test_a_key_repeats_what_it_drew_for_a_purpose_and_nothing_else() -> None:
    def drawn(secret: bytes, purpose: str) -> bytes:
        randomness = KeyedRandomness(secret, purpose)
        return randomness.normals(5).tobytes() + randomness.uniforms(5).tobytes()

    first, second = bytes(32), bytes(31) + b"\1"
    assert drawn(first, "a") == drawn(first, "a")
    assert len({drawn(first, "a"), drawn(first, "b"), drawn(second, "a")}) == 3
    # HKDF by hand (RFC 5869: one block of output), then AES in counter mode.
    extracted = hmac.digest(bytes(32), first, "sha256")
    key = hmac.digest(extracted, b"fedsim randomness 1: a\1", "sha256")
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(8))
    assert KeyedRandomness(first, "a").uniforms(1)[0] == (int.from_bytes(stream, "little") >> 11) * 2.0**-53
    with pytest.raises(ValueError, match="has 16 bytes; 32 are needed"):
        KeyedRandomness(bytes(16), "a")


def test_the_system_repeats_nothing() -> None:
    assert not np.array_equal(SystemRandomness().normals(8), SystemRandomness().normals(8))
    assert not np.array_equal(SystemRandomness().uniforms(8), SystemRandomness().uniforms(8))
