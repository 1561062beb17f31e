"""Sums over a fixed tree: the same bits, whichever worker makes the parts, and in whatever order they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PairTree(Generic[T]):
    """Merges parts: neighbours in pairs, then neighbouring pairs in pairs, and so on.

    A merge happens as soon as both of its sides are there, so when `n` parts come in order, about `log2(n)`
    are held at a time.

    `merge` returns the sum of a left and a right part, and may change either. `total` is the sum of all parts; None
    before the last has come, and if all are None.

    >>> tree = PairTree(5, lambda left, right: f"({left}{right})")
    >>> for leaf, part in [(4, "e"), (2, "c"), (0, "a"), (3, None), (1, "b")]:
    ...     tree.add(leaf, part)
    >>> tree.total
    '(((ab)c)e)'
    """

    def __init__(self, leaves: int, merge: Callable[[T, T], T]) -> None:
        self.total: T | None = None
        self._merge = merge
        self._widths = [leaves]  # parts on each level but the last
        while self._widths[-1] > 1:
            self._widths.append((self._widths[-1] + 1) // 2)
        self._widths.pop()
        self._waiting: dict[tuple[int, int], T | None] = {}

    def add(self, leaf: int, part: T | None, leaves: int = 1) -> None:
        """Put a part, or None where there is none, at its leaf; each leaf once.

        A part may be the total of `leaves` leaves, a power of two, of which the first, `leaf`, is a multiple, as `runs`
        cuts them.
        """
        height = leaves.bit_length() - 1
        index = leaf >> height
        for level, width in enumerate(self._widths[height:], start=height):
            if index ^ 1 < width:  # else it is the last of an odd number, and goes up alone
                if (level, index ^ 1) not in self._waiting:
                    self._waiting[level, index] = part
                    return
                other = self._waiting.pop((level, index ^ 1))
                part = self._both(other, part) if index & 1 else self._both(part, other)
            index //= 2
        self.total = part

    def _both(self, left: T | None, right: T | None) -> T | None:
        if left is None or right is None:
            return right if left is None else left
        return self._merge(left, right)


def runs(leaves: int, workers: int) -> list[range]:
    """Cut the leaves of a `PairTree` into runs, each of them all the leaves below one node of the tree.

    A run is a power of two long, and its start a multiple of that. Each takes at most one in `workers` of what
    is left ("guided self-scheduling", Polychronopoulos and Kuck 1987): the first ones are long, for few are less
    trouble than many, the last ones single leaves, so that the workers end at about the same time.

    >>> [len(run) for run in runs(21, 2)]
    [8, 4, 4, 2, 1, 1, 1]
    """
    cut: list[range] = []
    start = 0
    while start < leaves:
        share = max((leaves - start) // workers, 1)
        length = 1 << (share.bit_length() - 1)  # never longer than the one before: so `start` is a multiple
        cut.append(range(start, start + length))
        start += length
    return cut
