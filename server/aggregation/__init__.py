"""Aggregation: trains a cohort, and prepares its updates for the strategy.

`folded` sums updates in the engine, `gathered` passes each update to the strategy, `secure` uses secure aggregation.
"""

__all__: list[str] = []
