"""Shared arguments and console of the benchmarks' commands."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from rich.console import Console

WIDTH = 132  # of the widest table


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the shared arguments."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0] if description else None)
    parser.add_argument("--json", type=writable, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--seed", type=_whole, default=0, help="of data, weights, cohorts and batches (default: 0)"
    )
    return parser


def positive(text: str) -> int:
    """Return a whole number of at least 1; for argparse."""
    if (number := _whole(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from 0, below 2^32")
    return int(text)


def writable(text: str) -> Path:
    """Return the path of a file that can be written; for argparse."""
    path = Path(text).absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: must be a file in a folder that exists")
    return path


def refuse(reason: object) -> NoReturn:
    """Print a reason, and exit with fedsim's code for refusals."""
    print(reason, file=sys.stderr)
    raise SystemExit(2)


def console() -> Console:
    """Return a console for the tables: the terminal, or one wide enough."""
    terminal = Console()
    return terminal if terminal.width >= WIDTH else Console(width=WIDTH)
