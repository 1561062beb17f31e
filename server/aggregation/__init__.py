"""Trains a cohort and prepares its updates for the strategy: summed in the engine, each, or by secure aggregation."""

__all__: list[str] = []
