import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.fold import BLOCK, fold
from server.replies import Update


def updates(clients: list[int], seed: int = 0) -> dict[int, Update]:
    def one(client: int) -> Update:
        generator = np.random.default_rng([seed, client])
        arrays = {
            "w": generator.normal(size=(3, 2)).astype(np.float32),
            "scale": np.float32(generator.normal()).reshape(()),
            "count": np.array([client], dtype=np.int64),
        }
        metrics = {"num-examples": int(generator.integers(1, 50)), "train-loss": float(generator.random())}
        return Update(arrays, metrics, message=None)  # type: ignore[arg-type]

    return {client: one(client) for client in clients}


def examples(of: dict[int, Update]) -> dict[int, float]:
    return {client: float(update.metrics["num-examples"]) for client, update in of.items()}


@given(st.sets(st.integers(0, 500), min_size=1, max_size=40), st.data())
def test_the_fold_is_the_weighted_mean_of_who_answered(clients: set[int], data: st.DataObject) -> None:
    cohort = sorted(clients)
    answered = data.draw(st.sets(st.sampled_from(cohort), min_size=1))
    came = updates(sorted(answered))
    weights = examples(came)
    content = fold(cohort, came, weights)
    shares = list(weights.values())
    expected = np.average([u.arrays["w"] for u in came.values()], axis=0, weights=shares)
    np.testing.assert_allclose(content["arrays"]["w"].numpy(), expected, rtol=1e-6, atol=1e-7)
    assert content["metrics"]["train-loss"] == pytest.approx(
        np.average([u.metrics["train-loss"] for u in came.values()], weights=shares)
    )
    assert content["metrics"]["num-examples"] == sum(shares)


@given(st.permutations(list(range(3 * BLOCK + 1))))
def test_the_order_of_arrival_leaves_every_bit(arrival: list[int]) -> None:
    cohort = sorted(arrival)
    came = updates(cohort)
    reference = fold(cohort, came, examples(came))["arrays"]
    shuffled = fold(cohort, {c: came[c] for c in arrival}, examples(came))["arrays"]
    assert all(shuffled[name].numpy().tobytes() == reference[name].numpy().tobytes() for name in reference)


def test_arrays_keep_their_dtype_and_counters_are_rounded() -> None:
    came = updates([1, 2])
    arrays = fold([1, 2], came, {1: 1.0, 2: 3.0})["arrays"]
    assert {name: array.numpy().dtype.str for name, array in arrays.items()} == {
        "w": "<f4",
        "scale": "<f4",
        "count": "<i8",
    }
    assert arrays["count"].numpy().tolist() == [2]  # 1.75, rounded
    assert arrays["scale"].numpy().shape == ()


def test_one_client_is_returned_as_it_is() -> None:
    came = updates([7])
    assert fold([3, 7], came, {7: 5.0})["arrays"]["w"].numpy().tobytes() == came[7].arrays["w"].tobytes()
