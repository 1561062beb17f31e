"""Notebooks: each is made from the script of the same name, `python -m fedsim.experiments.notebooks.build`."""

__all__: list[str] = []
