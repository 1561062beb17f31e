"""Strategies by name."""

from server.strategies.build import build_strategy

__all__ = ["build_strategy"]
