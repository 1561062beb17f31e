"""Cohorts: the public rule for drawing a round's clients, and the secret draw itself."""

__all__: list[str] = []
