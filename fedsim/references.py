"""References to objects in modules, as text."""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsim.errors import Refused


def load_reference(reference: str) -> Any:
    """Import and return the object of `"module:attribute"`.

    Raises:
        Refused: The module or the attribute is not there, or the module raises.
    """
    module_name, _, attribute = reference.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise Refused(f"{reference!r} can't be loaded: {told(error)}") from error
    return found


@contextmanager
def refused_in(where: str) -> Iterator[None]:
    """Turn any exception of the user's code in the block into `Refused`; the message begins with `where`, its key."""
    try:
        yield
    except Refused as refused:
        if str(refused).startswith(where.partition(" =")[0]):
            raise
        raise Refused(f"{where}: {refused}") from refused.__cause__
    except Exception as error:
        raise Refused(f"{where}: {told(error)}") from error


def told(error: Exception) -> str:
    """Return an exception in one line: its message, after file, line and class if the user's code raised it."""
    said = str(error).strip().partition("\n")[0] or "no message"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    if own:
        return f"{own[-1].filename}:{own[-1].lineno}: {type(error).__name__}: {said}"
    plain = isinstance(error, TypeError | ValueError | ImportError | AttributeError)
    return said if plain else f"{type(error).__name__}: {said}"


def _is_own(filename: str) -> bool:
    """Return whether a file is neither fedsim's nor an installed package's."""
    return not filename.startswith(("<frozen", *_NOT_OWN))


_NOT_OWN = (str(Path(__file__).parent), *map(sysconfig.get_path, ("purelib", "platlib", "stdlib")))


def see_folders(folders: Iterable[str | Path]) -> None:
    """Let references find modules in folders too, after all others."""
    for folder in map(str, folders):
        if folder not in sys.path:
            sys.path.append(folder)
