"""Mechanisms that protect a whole client."""

__all__: list[str] = []
