"""Growth of fedsim's time and memory with clients, cohort, model and workers.

    python -m fedsim.experiments.benchmarks.scaling --json scaling.json

Each row is a run with newly prepared data: synthetic 28x28 images of one byte a pixel, the CNN, one epoch in batches
of 10. The start is from the start of the process to the first round, including preparation; the first round is
separate, since workers may still be loading in it. Memory is the largest sum of the proportional set sizes of the
process and all its children, sampled once a second.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from fedsim.experiments.benchmarks import command, host
from fedsim.experiments.benchmarks.competitors import Competitor, module, ours
from fedsim.experiments.benchmarks.memory import Peak
from fedsim.experiments.benchmarks.runner import Outcome, run
from fedsim.experiments.benchmarks.setting import experiment_text, write_source
from fedsim.experiments.benchmarks.work import Case, Work
from fedsim.threads import cores


@dataclass(frozen=True)
class Row:
    """One setting of a `series`; `width` and `hidden` are the CNN's."""

    series: str
    clients: int = 1000
    cohort: int = 100
    examples: int = 10
    width: float = 0.5
    hidden: int = 128
    workers: int = 2

    def __str__(self) -> str:
        return (
            f"{self.series}: {self.clients:,} clients, cohort {self.cohort}, {self.examples} examples, "
            f"width {self.width}, {self.workers} workers"
        )


def rows(number_of_cores: int) -> list[Row]:
    """Return all settings, series by series; each changes one thing."""

    def row(series: str, workers: int = number_of_cores, **changes: Any) -> Row:
        return Row(series, workers=workers, **changes)

    return [
        *(row("clients", clients=10**power, examples=2) for power in range(2, 6)),
        *(row("cohort", cohort=cohort) for cohort in (10, 30, 100, 300, 1000)),
        *(row("model", width=width, hidden=round(256 * width)) for width in (0.25, 0.5, 1.0, 2.0)),
        *(row("workers", workers=workers) for workers in range(1, number_of_cores + 1)),
    ]


@dataclass(frozen=True)
class Measured:
    """A row with what was measured: seconds, bytes, and the number of the model's parameters."""

    row: Row
    start: float
    first_round: float
    seconds: list[float]
    memory: int
    parameters: int


def measure(row: Row, warmup: int, timed: int, seed: int) -> Measured | str:
    """Run one setting; return the reason if it could not be run."""
    with tempfile.TemporaryDirectory(prefix="fedsim-benchmark-") as folder:
        case = Case(row.clients, row.cohort, row.examples)
        work = Work(case, warmup, timed, seed, row.workers, Path(folder))
        write_source(work.folder / "source.npz", case.clients * case.examples, work.stream(3), as_bytes=True)
        model = f'[model]\nname = "cnn"\nwidth = {row.width}\nhidden = {row.hidden}'
        (work.folder / "experiment.toml").write_text(experiment_text(work, model))
        peak = Peak()
        fedsim = Competitor("fedsim-local", lambda: module("simulator"), (), ours())
        return _measured(row, work, run(fedsim, work, work.save(), watch=peak.look), peak)


def _measured(row: Row, work: Work, outcome: Outcome, peak: Peak) -> Measured | str:
    if outcome.report is None:
        return outcome.reason or "failed"
    seconds = outcome.report.seconds
    return Measured(
        row,
        outcome.start,
        seconds[0],
        seconds[work.warmup : work.warmup + work.timed],
        peak.bytes,
        outcome.report.parameters,
    )


def table(measured: Sequence[Measured]) -> Table:
    """Return the measurements as a table, with a line between the series."""
    made = Table(title="fedsim, local engine")
    made.add_column("series")
    for name in ("clients", "cohort", "examples", "parameters", "workers"):
        made.add_column(name, justify="right")
    for name in ("start", "first round", "a round", "lowest to highest", "memory"):
        made.add_column(name, justify="right")
    for place, one in enumerate(measured):
        row, last = one.row, place + 1 == len(measured) or measured[place + 1].row.series != one.row.series
        made.add_row(
            row.series,
            *(f"{value:,}" for value in (row.clients, row.cohort, row.examples, one.parameters, row.workers)),
            f"{one.start:.1f} s",
            f"{one.first_round:.1f} s",
            f"{median(one.seconds):.3f} s",
            f"{min(one.seconds):.3f} to {max(one.seconds):.3f}",
            f"{one.memory / 2**20:,.0f} MiB",
            end_section=last,
        )
    return made


def main() -> None:
    """Print the table, and write it where asked."""
    parser = command.arguments(__doc__)
    parser.add_argument("--only", metavar="SERIES,...", help="clients, cohort, model, workers")
    parser.add_argument("--warmup", type=command.positive, default=3, help="rounds before (default: 3)")
    parser.add_argument("--rounds", type=command.positive, default=10, help="timed rounds (default: 10)")
    arguments = parser.parse_args()
    everything = rows(cores())
    series = list(dict.fromkeys(row.series for row in everything))
    wanted = [name.strip() for name in arguments.only.split(",")] if arguments.only else series
    for name in wanted:
        if name not in series:
            command.refuse(f"scaling: --only {name!r}: is no series; allowed: {', '.join(series)}")
    console, before = command.console(), host.describe()
    measured: list[Measured] = []
    for row in [row for row in everything if row.series in wanted]:
        result = measure(row, arguments.warmup, arguments.rounds, arguments.seed)
        if isinstance(result, str):
            console.print(f"{row}: {result}", highlight=False, markup=False)
            continue
        measured.append(result)
        console.print(f"{row}: {median(result.seconds):.3f} s a round", highlight=False, markup=False)
    if arguments.json:
        tree = {
            "host": {"before": before, "after": host.describe()},
            "rows": [asdict(one) for one in measured],
        }
        arguments.json.write_text(json.dumps(tree, indent=2) + "\n")
    console.print(table(measured))


if __name__ == "__main__":
    main()
