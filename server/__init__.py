"""The ServerApp: rounds, cohorts, aggregation and strategies."""

__all__: list[str] = []
