"""The attack gallery: each attack succeeds on its control, with numbers that are the victim's."""

import numpy as np
import pytest
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

from experiments.attacks import weak_seed
from experiments.attacks.finding import Finding, recovery
from experiments.attacks.gallery import ATTACKS

NO_NUMBERS = {"early-dropout"}  # nothing is recovered: the round stops


@pytest.mark.parametrize("name", ATTACKS)
def test_the_control_falls(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weak_seed, "TRIED", 2**16)
    found = ATTACKS[name].control()
    assert found.succeeded, found.what
    assert bool(found.recovered) == (name not in NO_NUMBERS)
    assert (ATTACKS[name].__doc__ or "").count("\nOurs: ") == 1


def test_a_recovery_that_is_wrong_is_no_success() -> None:
    assert recovery("it", [1.0, 2.0], [1.0, 2.0], 0.0) == Finding(True, "it", [1.0, 2.0], [1.0, 2.0])
    wrong = recovery("it", [1.0, 2.0], [1.0, 2.5], 0.1)
    assert (wrong.succeeded, wrong.error) == (False, 0.5)
    assert wrong.numbers() == "recovered 1.0000, 2.0000; true 1.0000, 2.5000; error at most 5.0e-01 over 2"


def test_the_seeds_that_are_searched_are_those_of_flowers_generator() -> None:
    seeds = np.array([0, 1, 5489, 2**32 - 1], np.uint32)
    words = weak_seed.first_words(seeds, 227)
    for column, seed in zip(words.T, seeds, strict=True):
        (theirs,) = pseudo_rand_gen(int(seed).to_bytes(4, "little"), 2**32, [(227,)])
        assert np.array_equal(column, theirs)


def test_a_search_that_leaves_the_right_seed_out_finds_nothing() -> None:
    seed = 1_000_000
    masks = weak_seed.first_words(np.array([seed], np.uint32), 4)[:, 0].astype(np.int64)
    left = masks + np.array([0, 1, 2**22, 5])
    assert weak_seed.search(left, range(seed - 1000, seed + 1000)) == [seed]
    assert weak_seed.search(left, range(seed + 1, seed + 40_000)) == []
