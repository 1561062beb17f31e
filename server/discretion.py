"""What a run with the operating system's noise says while it goes on: what may be public, and the rest in its private log.

Loggers are told of cohorts, of clients by name and of their reasons, and of what others' libraries (Flower's strategies)
find worth a line. So what is logged is private, unless the record says that it is public.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from fedsim.errors import Interrupted, Refused, Withheld
from fedsim.results import RunDirectory
from fedsim.results.disclosure import PUBLIC

LOGGERS = ("fedsim", "flwr")  # and all below them
FORM = "%(levelname)s %(name)s: %(message)s"


@contextmanager
def discreet(directory: RunDirectory) -> Iterator[None]:
    """Keep to a run's private log what is logged, warned of and raised inside the block, if the run has one.

    Raises:
        Withheld: In the place of what was raised, unless that says nothing but what was asked for.
    """
    private = directory.private
    if private is None:
        yield
        return
    with ExitStack() as stack:
        for name in LOGGERS:
            stack.enter_context(_diverted(logging.getLogger(name), private.note))
        stack.enter_context(_warned(private.note))
        try:
            yield
        except (Interrupted, Refused):
            raise
        except Exception as error:
            private.note_error(error)
            raise Withheld from None


class _Private(logging.Handler):
    """Writes records to a private log, and passes on those that are public.

    Args:
        logger: Whose handlers they are passed on to.
        note: Adds a text to the private log.
    """

    def __init__(self, logger: logging.Logger, note: Callable[[str], None]) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(FORM))
        self._handlers = list(logger.handlers)
        self._parent = logger.parent if logger.propagate else None
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or pass it on."""
        if not all(getattr(record, name, None) == value for name, value in PUBLIC.items()):
            self._note(self.format(record))
            return
        for handler in self._handlers:
            if record.levelno >= handler.level:
                handler.handle(record)
        if self._parent is not None:
            self._parent.callHandlers(record)


@contextmanager
def _diverted(logger: logging.Logger, note: Callable[[str], None]) -> Iterator[None]:
    """Have a logger write to a private log inside the block."""
    handlers, propagate = list(logger.handlers), logger.propagate
    logger.handlers, logger.propagate = [_Private(logger, note)], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate


@contextmanager
def _warned(note: Callable[[str], None]) -> Iterator[None]:
    """Have Python's warnings written to a private log inside the block; an overflow tells of what was summed."""

    def show(warning: Warning | str, category: type[Warning], *where: Any, **rest: Any) -> None:
        note(f"{category.__name__}: {warning}")

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield
