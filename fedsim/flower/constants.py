"""Flower's constants that messages and arrays carry."""

from __future__ import annotations

from flwr.common.constant import HEARTBEAT_MIN_INTERVAL, ErrorCode, SType

__all__ = ["HEARTBEAT_INTERVAL", "NUMPY", "ErrorCode"]

NUMPY = SType.NUMPY  # `Array.stype` of an array in NumPy's file format
HEARTBEAT_INTERVAL: float = (
    HEARTBEAT_MIN_INTERVAL  # seconds that a node promises between two heartbeats, at least
)
