"""Flower mods: every transform of a client's update is one (they arrive with their mechanisms)."""

__all__: list[str] = []
