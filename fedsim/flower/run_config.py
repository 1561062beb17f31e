"""A run's config at a client."""

from __future__ import annotations

from flwr.app import UserConfig
from flwr.common.config import get_fused_config_from_fab

from fedsim.flower.runs import Run


def fused_run_config(run: Run, fab: bytes) -> UserConfig:
    """Return a run's config: the defaults of its bundle (FAB), with the run's overrides."""
    return get_fused_config_from_fab(fab, run)
