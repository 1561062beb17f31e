"""Cohorts: the public rule by which a round's clients are drawn, and the draw itself, by coins that are not public."""

__all__: list[str] = []
