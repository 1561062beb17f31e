"""References to objects in modules, as text."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any, get_origin, get_type_hints

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
    except (Exception, SystemExit) as error:
        raise Refused(f"{reference!r} can't be loaded: {told(error)}") from error
    return found


def check_makes(found: object, kind: str) -> None:
    """Refuse what does not make objects of a kind, a class as `"module:Class"`; nothing is called.

    A subclass does, and a function whose return annotation is one. A function in a file of the user's own needs no
    annotation; one of an installed package, or of the standard library, does: `os:system` makes no model.
    """
    if not _makes(found, load_reference(kind)):
        said = f"the class {found.__qualname__}" if isinstance(found, type) else f"a {type(found).__name__}"
        module, _, name = kind.partition(":")
        raise Refused(
            f"is {said}; a {module}.{name} is needed: a subclass, or a function declared to return one (-> {name})"
        )


def _makes(found: Any, kind: type[Any]) -> bool:
    if isinstance(found, type):
        return issubclass(found, kind)
    function = inspect.unwrap(found.func if isinstance(found, functools.partial) else found)
    function = getattr(function, "__func__", function)  # of a method
    if not isinstance(function, FunctionType):
        function = getattr(type(function), "__call__", None)  # noqa: B004 (its annotation is wanted)
    if not isinstance(function, FunctionType):
        return False
    returned = _returned(function)
    if isinstance(returned, type) and returned is not Any:
        return issubclass(returned, kind)
    return _is_own(function.__code__.co_filename)


def _returned(function: FunctionType) -> Any:
    """Return a function's return annotation, `Any` if there is none, or none that can be evaluated."""
    declared = SimpleNamespace(__annotations__={"return": function.__annotations__.get("return", Any)})
    try:
        hint = get_type_hints(declared, function.__globals__)["return"]
    except Exception:  # it may be any expression, of names that are imported for type checkers alone
        return Any
    return get_origin(hint) or hint


@contextmanager
def refused_in(where: str) -> Iterator[None]:
    """Turn any exception of the user's code in the block into `Refused`; the message begins with `where`, its key."""
    try:
        yield
    except Refused as refused:
        if str(refused).startswith(where.partition(" =")[0]):
            raise
        raise Refused(f"{where}: {refused}") from refused.__cause__
    except (Exception, SystemExit) as error:
        raise Refused(f"{where}: {told(error)}") from error


def told(error: Exception | SystemExit) -> str:
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
