"""Cohorts: the public rule for drawing a round's clients, and the secret draw itself.

`participation` limits how often and how far apart a client takes part.
"""

__all__: list[str] = []
