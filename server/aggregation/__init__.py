"""Aggregation: how a cohort trains, and how its updates become what the strategy takes.

`folded` adds updates up where they are, `gathered` brings each to the strategy, `secure` sums them by secure aggregation.
"""

__all__: list[str] = []
