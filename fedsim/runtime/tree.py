"""Sums over a fixed tree: the same bits, in whatever order the parts come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PairTree(Generic[T]):
    """Merges parts: neighbours in pairs, then neighbouring pairs in pairs, and so on.

    A merge happens as soon as both of its sides are there, so when `n` parts come in order, about `log2(n)`
    are held at a time.

    Args:
        leaves: How many parts there will be, at least 1.
        merge: Returns the sum of a left and a right part; may change either.

    Attributes:
        total: The sum of all parts; None before the last has come, and if all are None.

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

    def add(self, leaf: int, part: T | None) -> None:
        """Put a part, or None where there is none, at its leaf; each leaf once."""
        index = leaf
        for level, width in enumerate(self._widths):
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
