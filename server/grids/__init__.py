"""Grids: how the server reaches clients, seen by a strategy, over a network, or through another Grid."""

__all__: list[str] = []
