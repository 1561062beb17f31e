"""A model as one vector and back, and the settings that all parties derive alike."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st

from fedsim.arrays import record_of
from fedsim.layout import difference, plus_vector, why_not_float
from fedsim.privacy.secagg.primitives import SigningKey
from fedsim.privacy.vectors import dimension_of
from fedsim.secagg.setup import Registry, graph_entropy, identity_of, policy_of
from tests.conftest import experiment

shapes = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=4)


@given(shapes, st.sampled_from(["float16", "float32", "float64"]), st.integers(0, 2**32))
def test_received_plus_difference_is_trained(drawn: list[tuple[int, ...]], dtype: str, seed: int) -> None:
    draws = np.random.default_rng(seed)
    before = {f"w{i}": np.asarray(draws.integers(-9, 9, shape), dtype) for i, shape in enumerate(drawn)}
    after = {name: np.asarray(w + draws.integers(-9, 9, w.shape), dtype) for name, w in before.items()}
    update = difference(record_of(after), record_of(before))
    assert (update.shape, update.dtype) == ((dimension_of(drawn),), np.dtype(dtype))
    back = plus_vector(record_of(before), update.astype(np.float64))
    assert list(back) == list(before)
    for name, w in after.items():
        got = back[name].numpy()
        assert (got.shape, got.dtype) == (w.shape, w.dtype)
        np.testing.assert_array_equal(got, w)


def test_the_order_is_the_models() -> None:
    before = {"b": np.zeros(2, np.float32), "a": np.zeros((1, 2), np.float32)}
    after = {"b": np.float32([1, 2]), "a": np.float32([[3, 4]])}
    assert difference(record_of(after), record_of(before)).tolist() == [1, 2, 3, 4]
    arrays = ArrayRecord({name: Array(w) for name, w in before.items()})  # Flower's own
    assert plus_vector(arrays, np.float64([1, 2, 3, 4]))["a"].numpy().tolist() == [[3, 4]]


def test_the_widest_dtype_holds_all() -> None:
    before = {"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float64)}
    after = {"a": np.float32([1]), "b": np.float64([1 + 2**-40])}
    assert difference(record_of(after), record_of(before)).tolist() == [1, 1 + 2**-40]


@pytest.mark.parametrize(
    "after",
    [
        {"v": np.zeros(2, np.float32)},
        {"w": np.zeros((2, 1), np.float32)},
        {"w": np.zeros(2)},
        {},
    ],
)
def test_training_returns_the_arrays_that_it_got(after: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="than it received"):
        difference(record_of(after), record_of({"w": np.zeros(2, np.float32)}))


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "complex64"])
def test_arrays_that_are_not_floating_point_are_named(dtype: str) -> None:
    assert why_not_float({"a": np.dtype("float32"), "n": np.dtype(dtype)}) == (
        f"n is {dtype}: only floating-point updates can be clipped, summed or transformed"
    )
    with pytest.raises(ValueError, match=f"n is {dtype}"):
        difference(record_of({"n": np.zeros(2, dtype)}), record_of({"n": np.zeros(2, dtype)}))


def test_the_policy_follows_from_the_experiment() -> None:
    records = np.array([5, 30, 7])
    assert policy_of(experiment(), 10, records) is None
    on = ("privacy.secagg.dropout=0.2", "server.cohort=5")
    policy = policy_of(experiment(*on), 10, records)
    assert policy is not None
    assert (policy.encoding.dimension, policy.encoding.max_weight, policy.encoding.metrics) == (
        10,
        30,
        ("train-loss",),
    )
    assert dict(policy.registry) == {}
    private = tuple(
        f"privacy.dp-fedavg={{noise-multiplier=1.0, delta=1e-3, clip=1.0, {more}}}"
        for more in ("adaptive={}, release={train-loss={bound=5.0}, num-examples={bound=9.0}}", "release={}")
    )
    with_all = policy_of(experiment(*on, private[0], "privacy.noise='os'"), 10, records)
    with_none = policy_of(experiment(*on, private[1], "privacy.noise='os'"), 10, records)
    assert with_all is not None
    assert with_none is not None
    assert with_all.encoding.metrics == ("shifted-bit", "shifted-num-examples", "shifted-train-loss")
    assert with_none.encoding.metrics == ()
    uniform = policy_of(experiment(*on, "server.weighting=uniform"), 10, records)
    given_ = policy_of(experiment(*on, "privacy.secagg.max-weight=100"), 10, records)
    assert uniform is not None
    assert given_ is not None
    assert (uniform.encoding.max_weight, given_.encoding.max_weight) == (1, 100)


def test_identities_are_each_clients_own_and_registered() -> None:
    setting = experiment(
        "privacy.secagg.adversary=malicious-server", "privacy.secagg.dropout=0.2", "server.cohort=5"
    )
    policy = policy_of(setting, 10, np.full(12, 3))
    assert policy is not None
    assert len(policy.registry) == len({policy.registry[client] for client in policy.registry}) == 12
    assert policy.registry[3] == SigningKey(identity_of(0, 3)).public
    assert policy.registry.get(12) is None
    assert Registry(1, 12)[3] != policy.registry[3]


def test_a_part_in_the_graph_is_each_partys_own_and_the_systems_where_noise_is() -> None:
    setting = experiment("privacy.secagg.dropout=0.2", "server.cohort=5")
    draws = [graph_entropy(setting, round_, client)(32) for round_ in (1, 2) for client in (None, *range(12))]
    assert len(set(draws)) == 26
    assert graph_entropy(setting, 1, 3)(32) == draws[4]
    system = experiment(
        "privacy.secagg.dropout=0.2",
        "server.cohort=5",
        "privacy.noise=os",
        "privacy.dp-sgd.delta=1e-5",
        "privacy.dp-sgd.noise-multiplier=1.0",
    )
    assert graph_entropy(system, 1, 3)(32) != graph_entropy(system, 1, 3)(32)
    private = policy_of(system, 10, np.full(12, 3))
    assert private is not None
    assert private.encoding.metrics == ()  # losses are not noised
