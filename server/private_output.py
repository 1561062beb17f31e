"""Private output of a run with the operating system's noise: log records, warnings and errors go to its private log.

Log records may name cohorts, clients and reasons for failures, and other libraries (Flower's strategies) log too. So a
record is private unless it is marked public.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from fedsim.errors import OF_THE_MACHINE, Interrupted, Refused, Withheld
from fedsim.results import RunDirectory
from fedsim.results.disclosure import PUBLIC

LOGGERS = ("fedsim", "flwr")  # and their children
FORMAT = "%(levelname)s %(name)s: %(message)s"


@contextmanager
def private_output(directory: RunDirectory) -> Iterator[None]:
    """Redirect log records, warnings and errors inside the block to the run's private log, if it has one.

    Raises:
        Withheld: Replaces an exception, except `Interrupted`, `Refused`, and an `OSError` by which the machine is
            at fault, whatever the data.
    """
    private = directory.private
    if private is None:
        yield
        return
    with ExitStack() as stack:
        for name in LOGGERS:
            stack.enter_context(_redirected(logging.getLogger(name), private.note))
        stack.enter_context(_redirected_warnings(private.note))
        try:
            yield
        except (Interrupted, Refused):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
                raise
            private.note_error(error)
            raise Withheld from None


class _PrivateHandler(logging.Handler):
    """Writes records to a private log by `note`, and passes public ones on to the logger's handlers."""

    def __init__(self, logger: logging.Logger, note: Callable[[str], None]) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(FORMAT))
        self._handlers = list(logger.handlers)
        self._parent = logger.parent if logger.propagate else None
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        """Write a private record, or pass a public one on."""
        if not all(getattr(record, name, None) == value for name, value in PUBLIC.items()):
            self._note(self.format(record))
            return
        for handler in self._handlers:
            if record.levelno >= handler.level:
                handler.handle(record)
        if self._parent is not None:
            self._parent.callHandlers(record)


@contextmanager
def _redirected(logger: logging.Logger, note: Callable[[str], None]) -> Iterator[None]:
    handlers, propagate = list(logger.handlers), logger.propagate
    logger.handlers, logger.propagate = [_PrivateHandler(logger, note)], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate


@contextmanager
def _redirected_warnings(note: Callable[[str], None]) -> Iterator[None]:
    """Write Python's warnings to a private log inside the block: an overflow would reveal something about a sum."""

    def show(warning: Warning | str, category: type[Warning], *where: Any, **rest: Any) -> None:
        note(f"{category.__name__}: {warning}")

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield
