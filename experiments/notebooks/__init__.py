"""Notebooks, each made from the script of the same name by `python -m fedsim.experiments.notebooks.build`."""

__all__: list[str] = []
