"""Grids: a strategy's view of a cohort, the Grid of a deployment, and folding of replies."""

__all__: list[str] = []
