"""Models by name, and their initial weights from the seed."""

from fedsim.models.build import build, initial_model

__all__ = ["build", "initial_model"]
