"""All cases, by name."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import chain

from fedsim.experiments.golden import catalogue, corners, matrix, outputs
from fedsim.experiments.golden.case import Case


def all_cases() -> dict[str, Case]:
    """Return all cases by name, in the order in which they are performed.

    Raises:
        ValueError: Two have the same name.
    """
    found: dict[str, Case] = {}
    for case in chain(matrix.cases(), catalogue.cases(), corners.cases(), outputs.cases()):
        if case.name in found:
            raise ValueError(f"two cases are named {case.name!r}")
        found[case.name] = case
    return found


def matching(pattern: str) -> list[Case]:
    """Return the cases with a name, or a beginning of one, that matches a shell pattern."""
    return [
        case
        for name, case in all_cases().items()
        if fnmatchcase(name, pattern) or fnmatchcase(name, pattern + "/*")
    ]
