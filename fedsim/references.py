"""References to objects in modules, as text."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedsim.errors import Refused


def load_reference(reference: str) -> Any:
    """Import and return the object of `"module:attribute"`.

    Raises:
        Refused: The module or the attribute is not there.
    """
    module_name, _, attribute = reference.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise Refused(f"{reference!r} can't be loaded: {error}") from error
    return found


def see_folders(folders: Iterable[str | Path]) -> None:
    """Let references find modules in folders too, after all others."""
    for folder in map(str, folders):
        if folder not in sys.path:
            sys.path.append(folder)
