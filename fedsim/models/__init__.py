"""Models by name, and their initial weights from the seed."""

from fedsim.models.build import build, initial_model, initial_state

__all__ = ["build", "initial_model", "initial_state"]
