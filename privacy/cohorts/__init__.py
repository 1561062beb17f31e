"""Cohorts: the public rule by which a round's clients are drawn, the draw itself, by coins that are not
public, and how often and how far apart a client takes part."""

__all__: list[str] = []
