"""Refusals of a parameter that is out of its range: a `ValueError` with its name, its value, and what it must be."""

from __future__ import annotations

import math


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not above 0 and finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} = {value}: must be above 0, and finite")


def check_rate(name: str, value: float) -> None:
    """Refuse a probability that is not above 0 and at most 1."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} = {value}: must be above 0 and at most 1")


def check_count(name: str, value: int | None, least: int = 1) -> None:
    """Refuse a count, if there is one, below the least."""
    if value is not None and value < least:
        raise ValueError(f"{name} = {value}: must be {least} or more")
