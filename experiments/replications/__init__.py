"""Replications of published results."""

__all__: list[str] = []
