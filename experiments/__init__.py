"""Experiment files, benchmarks, replications."""

__all__: list[str] = []
