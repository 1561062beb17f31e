"""Building a FAB (Flower App Bundle)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from flwr.cli.build import build_fab_from_files


def build_fab(files: Mapping[str, bytes]) -> bytes:
    """Return the FAB of an app's files, by their paths; `pyproject.toml` must be one of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised for a file pattern inside Flower
        return build_fab_from_files(dict(files))[0]
