"""The ServerApp: rounds, cohorts, the fold, and strategies."""

__all__: list[str] = []
