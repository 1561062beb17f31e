"""Runs as Flower describes them, and their config."""

from __future__ import annotations

from flwr.app import UserConfig
from flwr.supercore.run import Run, RunNotRunningException

__all__ = ["Run", "RunNotRunningException", "fused_run_config", "simulated_run"]


def simulated_run(run_id: int) -> Run:
    """Return a run that no SuperLink knows: an id, and defaults."""
    return Run.create_empty(run_id)


def fused_run_config(run: Run, fab: bytes) -> UserConfig:
    """Return a run's config: the defaults of its bundle (FAB), with the run's overrides."""
    from flwr.common.config import get_fused_config_from_fab  # loads much that a simulation doesn't need

    return get_fused_config_from_fab(fab, run)
