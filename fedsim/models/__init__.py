"""Models by name, their initial weights from the seed, and how well they do."""

from fedsim.models.build import build, initial_model
from fedsim.models.scoring import Score, example_losses, loss, score

__all__ = ["Score", "build", "example_losses", "initial_model", "loss", "score"]
