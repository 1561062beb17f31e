"""Checks that a code change keeps the bits of seeded runs, and the bytes of files and output.

    python -m fedsim.experiments.golden between main~5 main        # both commits on this machine
    python -m fedsim.experiments.golden record before.json         # the code that is importable, here or by PYTHONPATH
    python -m fedsim.experiments.golden compare before.json after.json

Some 380 small experiments are run: every mechanism beside every kind of secure aggregation, on two engines, whole and
resumed; strategies, partitions, models, faults, empty cohorts, rounds without a sum, kills; budgets, comparisons and
refusals. Digests hold on one kind of processor, with one set of packages.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from fedsim.experiments.golden.all_cases import matching
from fedsim.experiments.golden.case import Case
from fedsim.experiments.golden.comparison import differences, table
from fedsim.experiments.golden.recording import Recording, cores, load
from fedsim.experiments.golden.worktrees import worktrees

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 if something differs, or 2 if the command fails."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "record":
            Recording(given.out).make(given.only, given.jobs)
            return 0
        if given.command == "compare":
            return _compare(load(given.before), load(given.after))
        return _between([given.commit, given.other], given.only, given.jobs, given.keep)
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2


def _compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    console = Console() if sys.stdout.isatty() else Console(width=200)
    if before["host"] != after["host"]:
        console.print(
            f"The machines differ: {before['host']} and {after['host']}; so may last bits.", markup=False
        )
    found = differences(before, after)
    if not found:
        console.print(f"{len(before['cases'])} cases: no difference")
        return 0
    console.print(table(found))
    cases = len({difference.case for difference in found})
    console.print(f"{cases} of {len(before['cases'] | after['cases'])} cases differ", highlight=False)
    return 1


def _between(commits: Sequence[str], cases: Sequence[Case], jobs: int, keep: Path | None) -> int:
    with worktrees(HERE, commits) as checkouts, TemporaryDirectory(prefix="fedsim-golden-") as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        recordings = [
            Recording(folder / f"{name}.json", checkout).make(cases, jobs)
            for name, checkout in zip(("before", "after"), checkouts, strict=True)
        ]
    return _compare(*recordings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fedsim.experiments.golden",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record", help="perform the cases, and write what came of them")
    record.add_argument(
        "out", type=_writable, metavar="OUT.json", help="what it has of the same code is kept"
    )
    compare = commands.add_parser("compare", help="show what differs; exit 1 if anything does")
    compare.add_argument("before", type=Path, metavar="BEFORE.json")
    compare.add_argument("after", type=Path, metavar="AFTER.json")
    between = commands.add_parser("between", help="record two commits on this machine, and compare")
    between.add_argument("commit", metavar="COMMIT")
    between.add_argument("other", nargs="?", default="HEAD", metavar="COMMIT", help="default: HEAD")
    between.add_argument("--keep", type=Path, metavar="DIR", help="leave before.json and after.json there")
    for command in (record, between):
        command.add_argument(
            "--only", type=_cases, default="*", metavar="PATTERN", help="cases, as in 'matrix/*/real/*'"
        )
        command.add_argument(
            "--jobs",
            type=_positive,
            default=cores(),
            metavar="N",
            help="cases at a time (default: the cores)",
        )
    return parser


def _cases(pattern: str) -> list[Case]:
    found = matching(pattern)
    if not found:
        raise argparse.ArgumentTypeError(
            f"{pattern!r}: is no case's name; the names begin like 'matrix/dp-sgd'"
        )
    return found


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number, at least 1")
    return int(text)


def _writable(text: str) -> Path:
    path = Path(text).absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: must be a file in a folder that exists")
    return path


if __name__ == "__main__":
    sys.exit(main())
