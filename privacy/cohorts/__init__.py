"""Cohorts: the public rule by which a round's clients are drawn, and the draw itself, by coins that are not public.

`participation` says how often and how far apart a client takes part, and holds it to that.
"""

__all__: list[str] = []
