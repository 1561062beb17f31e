"""Flower's logger, and its handler that writes to the console."""

from __future__ import annotations

from typing import TextIO

from flwr.supercore.logger import FLOWER_LOGGER, console_handler, log

__all__ = ["log", "set_console", "take_over_log"]


def set_console(stream: TextIO) -> TextIO | None:
    """Have Flower's console handler write to a stream; return its former stream, None if that is the same."""
    return console_handler.setStream(stream)


def take_over_log() -> None:
    """Remove Flower's console handler, and drop its lines about API requests that it refuses.

    They don't say which client is refused; a server of fedsim logs refusals itself.
    """
    FLOWER_LOGGER.handlers.clear()
    FLOWER_LOGGER.addFilter(lambda record: "[ApiError:" not in record.getMessage())
