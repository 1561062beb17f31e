"""Makes what an experiment names by reference, from its options: a strategy, an algorithm, a transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedsim.errors import Refused
from fedsim.references import told


def made(make: Callable[[], object], kind: type[Any], where: str, needed: str) -> Any:
    """Return the result of `make`, which calls the referenced object: an instance of a class or checkable protocol.

    Raises:
        Refused: The object doesn't take the arguments, or returned something else; the message begins with `where`, the
            key and its value, and says what is `needed`.
    """
    try:
        result = make()
    except (TypeError, ValueError) as error:  # a `Refused` is one
        raise Refused(f"{where}: {error}") from error
    except (Exception, SystemExit) as error:
        raise Refused(f"{where}: {told(error)}") from error
    if not isinstance(result, kind):
        raise Refused(f"{where}: returned {type(result).__name__}; {needed} is needed")
    return result
