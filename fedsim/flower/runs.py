"""Runs as Flower describes them."""

from __future__ import annotations

from flwr.supercore.run import Run

__all__ = ["Run", "simulated_run"]


def simulated_run(run_id: int) -> Run:
    """Return a run that no SuperLink knows: an id, and defaults."""
    return Run.create_empty(run_id)
