"""Strategies by name, and their state between rounds."""

from fedsim.server.strategies.build import build_strategy
from fedsim.server.strategies.state import load_strategy_state, strategy_state, why_not_kept

__all__ = ["build_strategy", "load_strategy_state", "strategy_state", "why_not_kept"]
