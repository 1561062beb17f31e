import gc
import weakref
from collections.abc import Iterable
from functools import reduce

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedsim.layout import Expected
from fedsim.runtime.spec import acting_as
from fedsim.runtime.tree import PairTree
from fedsim.server.aggregation.folded import Total, WeightedSum
from fedsim.server.grids import BLOCKS, blocks

EXPECTED: Expected = {
    "w": ((3, 2), np.dtype("float32")),
    "scale": ((), np.dtype("float32")),
    "count": ((1,), np.dtype("int64")),
}
BY_EXAMPLES = WeightedSum({"arrays": EXPECTED}, uniform=False)


def reply(client: int, *, spoil: bool = False, wide: bool = False) -> Message:
    """Return a client's update, drawn from its number: spoiled, it isn't finite; wide, its sums are rounded."""
    generator = np.random.default_rng([0, client])
    arrays = {
        "w": generator.normal(size=(3, 2)).astype(np.float32),
        "scale": np.asarray(generator.normal(), dtype=np.float32),
        "count": np.array([client], dtype=np.int64),
    }
    if wide:  # float64 adds a few float32 of like size exactly, in whatever order
        arrays["w"] *= np.float32(10.0) ** generator.integers(-12, 12, (3, 2)).astype(np.float32)
    if spoil:
        arrays["w"][0, 0] = np.inf
    metrics = {"num-examples": int(generator.integers(1, 50)), "train-loss": float(generator.random())}
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(array) for name, array in arrays.items()}),
            "metrics": MetricRecord(metrics),  # type: ignore[arg-type]
        }
    )
    with acting_as(1):
        request = Message(RecordDict(), client, "train")
    return Message(content, reply_to=request)


def folded(
    groups: list[list[Message]], order: Iterable[int] | None = None, fold: WeightedSum = BY_EXAMPLES
) -> Total:
    """Fold groups of replies, which come in some order."""
    tree: PairTree[Total] = PairTree(len(groups), fold.merge)
    for leaf in range(len(groups)) if order is None else order:
        tree.add(leaf, reduce(fold.add, groups[leaf], None))
    assert tree.total is not None
    return tree.total


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 500), st.booleans()), max_size=4), min_size=1, max_size=9),
    st.booleans(),
)
def test_the_fold_is_the_weighted_mean_of_valid_replies(
    drawn: list[list[tuple[int, bool]]], uniform: bool
) -> None:
    groups = [[reply(client, spoil=spoil) for client, spoil in group] for group in drawn]
    if not any(groups):
        return
    total = folded(groups, fold=WeightedSum({"arrays": EXPECTED}, uniform))
    good = [client for group in drawn for client, spoil in group if not spoil]
    assert total.nodes == good
    assert set(total.failures) == {client for group in drawn for client, spoil in group if spoil}
    if not good:
        return
    updates = [reply(client).content for client in good]
    examples = [float(u["metrics"]["num-examples"]) for u in updates]  # type: ignore[arg-type]
    weights = np.ones(len(good)) if uniform else np.array(examples)
    content = total.content(EXPECTED)
    for name in ("w", "scale"):
        expected = np.average([u["arrays"][name].numpy() for u in updates], axis=0, weights=weights)  # type: ignore[union-attr]
        np.testing.assert_allclose(content["arrays"][name].numpy(), expected, rtol=1e-5, atol=1e-6)
    losses = [float(u["metrics"]["train-loss"]) for u in updates]  # type: ignore[arg-type]
    assert content["metrics"]["train-loss"] == pytest.approx(np.average(losses, weights=weights))
    assert content["metrics"]["num-examples"] == sum(examples)


@given(st.permutations(range(13)))
def test_the_order_of_arrival_leaves_every_bit(arrival: list[int]) -> None:
    groups = [[reply(3 * leaf + i, wide=True) for i in (1, 2, 3)] for leaf in range(13)]
    reference, shuffled = (folded(groups, order).records["arrays"] for order in (None, arrival))
    assert all(shuffled[name].tobytes() == reference[name].tobytes() for name in reference)


def test_another_tree_gives_other_bits() -> None:
    # The control of the test above: sums of floats do depend on their order.
    groups = [[reply(leaf, wide=True)] for leaf in range(1, 30)]
    assert len({folded(groups[k:] + groups[:k]).records["arrays"]["w"].tobytes() for k in range(8)}) > 1


def test_arrays_keep_their_dtype_and_counters_are_rounded() -> None:
    arrays = folded(
        [[reply(1), reply(2), reply(2), reply(2)]], fold=WeightedSum({"arrays": EXPECTED}, uniform=True)
    ).content(EXPECTED)["arrays"]
    assert {n: (a.numpy().shape, a.numpy().dtype) for n, a in arrays.items()} == dict(EXPECTED)
    assert arrays["count"].numpy().tolist() == [2]  # 1.75, rounded


def test_one_client_is_returned_as_it_is() -> None:
    assert (
        folded([[], [reply(7)]]).content(EXPECTED)["arrays"]["w"].numpy().tobytes()
        == reply(7).content["arrays"]["w"].numpy().tobytes()
    )


def test_a_metric_that_not_all_report_has_no_mean() -> None:
    other = reply(2)
    other.content["metrics"]["norm"] = 1.0
    assert set(folded([[reply(1), other], [other]]).content(EXPECTED)["metrics"]) == {
        "num-examples",
        "train-loss",
    }


@given(st.integers(1, 1000))
def test_blocks_depend_on_the_cohort_alone_and_keep_its_order(size: int) -> None:
    messages = [reply(client + 1) for client in range(min(size, 3))] * (size // 3 + 1)
    cut = blocks(messages[:size])
    assert [m for block in cut for m in block] == messages[:size]
    assert len(cut) <= BLOCKS
    assert max(map(len, cut)) - min(map(len, cut[:-1] or cut)) == 0 or len(cut) == 1


def test_memory_layout_does_not_matter() -> None:
    def transposed(client: int) -> Message:
        message = reply(client)
        record = message.content.array_records["arrays"]
        record["w"] = Array(np.asfortranarray(record["w"].numpy()))
        return message

    plain, other = (
        folded([[make(1), make(2), make(3)]]).records["arrays"]["w"] for make in (reply, transposed)
    )
    assert plain.tobytes() == other.tobytes()


def test_folded_replies_are_freed_at_once() -> None:
    """Otherwise its arrays would be copied when the worker loads its next client."""
    came = reply(1)
    array = weakref.ref(came.content["arrays"]["w"])  # type: ignore[arg-type]
    gc.disable()  # it must be freed without the garbage collector
    try:
        total = BY_EXAMPLES.add(None, came)
        del came
        assert total.nodes == [1]
        assert array() is None
    finally:
        gc.enable()
