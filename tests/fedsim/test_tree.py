from hypothesis import given
from hypothesis import strategies as st

from fedsim.runtime.tree import PairTree, runs


def by_levels(parts: list[str | None]) -> str | None:
    """Merge neighbours in pairs, level by level: what the tree must give, written down the obvious way."""
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [merged([part for part in pair if part is not None]) for pair in pairs]
    return parts[0]


def merged(present: list[str]) -> str | None:
    return f"({''.join(present)})" if len(present) == 2 else (present or [None])[0]


@given(st.integers(1, 70), st.randoms(use_true_random=False), st.sets(st.integers(0, 69)))
def test_any_order_gives_the_tree_of_the_leaves(leaves: int, shuffle, missing: set[int]) -> None:  # type: ignore[no-untyped-def]
    parts = [None if leaf in missing else chr(0x4E00 + leaf) for leaf in range(leaves)]
    tree: PairTree[str] = PairTree(leaves, lambda left, right: f"({left}{right})")
    order = list(range(leaves))
    shuffle.shuffle(order)
    for leaf in order:
        assert tree.total is None
        tree.add(leaf, parts[leaf])
    assert tree.total == by_levels(parts)


@given(st.integers(1, 70), st.integers(1, 9), st.randoms(use_true_random=False), st.sets(st.integers(0, 69)))
def test_runs_that_are_summed_elsewhere_give_the_same_tree(
    leaves: int,
    workers: int,
    shuffle,  # type: ignore[no-untyped-def]
    missing: set[int],
) -> None:
    parts = [None if leaf in missing else chr(0x4E00 + leaf) for leaf in range(leaves)]
    cut = runs(leaves, workers)
    shuffle.shuffle(cut)
    tree: PairTree[str] = PairTree(leaves, lambda left, right: f"({left}{right})")
    for run in cut:
        tree.add(run.start, by_levels(parts[run.start : run.stop]), len(run))
    assert tree.total == by_levels(parts)


@given(st.integers(0, 2000), st.integers(1, 100))
def test_runs_hold_each_leaf_once_and_get_shorter(leaves: int, workers: int) -> None:
    cut = runs(leaves, workers)
    assert [leaf for run in cut for leaf in run] == list(range(leaves))
    lengths = [len(run) for run in cut]
    assert lengths == sorted(lengths, reverse=True)
    assert all(
        length <= max((leaves - run.start) / workers, 1) for run, length in zip(cut, lengths, strict=True)
    )
    assert len(cut) >= min(leaves, workers)


@given(st.integers(1, 3000))
def test_in_order_only_log_n_parts_are_held(leaves: int) -> None:
    tree: PairTree[int] = PairTree(leaves, int.__add__)
    for leaf in range(leaves):
        tree.add(leaf, 1)
        assert len(tree._waiting) <= (leaf + 1).bit_length()
    assert tree.total == leaves
