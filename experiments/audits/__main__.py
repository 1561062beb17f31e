"""The audit of noise in finite precision: what low bits reveal of a sum, for every mechanism and kernel.

    python -m fedsim.experiments.audits --json experiments/audits/low_bits.json

Each mechanism releases a sum with and without a record, many times. Statistics are a number's lowest set bit, its
multiple of the grid step modulo 2 and 256, and the number itself. The largest lower bound on epsilon that
`fedsim.privacy.audit.measure` finds for one of them, at 95 % for the whole table, is shown beside the claimed
epsilon. For sums of 100,000 coordinates, a grid step apart in each, the statistics are the number of even multiples
and the sum of lowest bits. Finished rows are written to the file, and not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fedsim.experiments.audits.subjects import SUBJECTS, Subject
from fedsim.experiments.benchmarks import command, host
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.audit import Measured, lowest_bit, measure, residues
from fedsim.results.files import write_whole
from fedsim.streams import noise_stream

NOISE_MULTIPLIERS = (1.0, 2.0, 4.0, 16.0)
TRIALS, COORDINATES, VECTORS = 100_000, 100_000, 1000
CONFIDENCE = 0.95

Statistic = Callable[[NDArray[Any], float], NDArray[np.float64]]
OF_NUMBERS: Mapping[str, Statistic] = {
    "number": lambda values, step: values.astype(np.float64),
    "lowest bit": lambda values, step: lowest_bit(values),
    "parity": lambda values, step: residues(values, step, 2),
    "low byte": lambda values, step: residues(values, step, 256),
}
OF_VECTORS: Mapping[str, Statistic] = {
    "even coordinates": lambda values, step: np.array([(residues(values, step, 2) == 0).sum()], float),
    "sum of lowest bits": lambda values, step: np.array([lowest_bit(values).sum()]),
}
TESTS = len(NOISE_MULTIPLIERS) * sum(
    len(OF_NUMBERS) + len(OF_VECTORS) * subject.vectors for subject in SUBJECTS.values()
)


def audit(
    name: str,
    noise_multiplier: float,
    trials: int,
    vectors: int,
    seed: int,
    arithmetic: Arithmetic = Arithmetic.GRID,
) -> dict[str, Any]:
    """Return a row: a subject's claimed epsilon, and each statistic's lower bound."""
    started, subject = time.perf_counter(), SUBJECTS[name]
    generator = noise_stream(seed, f"low bits: {name}, {noise_multiplier:g}, {arithmetic}")
    bounds = _bounds(subject, noise_multiplier, arithmetic, generator, OF_NUMBERS, trials, 1)
    if subject.vectors:
        bounds |= _bounds(subject, noise_multiplier, arithmetic, generator, OF_VECTORS, vectors, COORDINATES)
    return {
        "subject": name,
        "noise-multiplier": noise_multiplier,
        "arithmetic": arithmetic.value,
        "trials": trials,
        "vectors": vectors if subject.vectors else 0,
        "seed": seed,
        "delta": subject.delta,
        "claimed": subject.claimed(noise_multiplier),
        "measured": {statistic: found.epsilon for statistic, found in bounds.items()},
        "events": {statistic: found.event for statistic, found in bounds.items() if found.event},
        "seconds": round(time.perf_counter() - started, 1),
    }


def _bounds(
    subject: Subject,
    noise_multiplier: float,
    arithmetic: Arithmetic,
    generator: np.random.Generator,
    statistics: Mapping[str, Statistic],
    trials: int,
    coordinates: int,
) -> dict[str, Measured]:
    """Return the lower bound of each statistic of the same releases."""
    step = subject.step(noise_multiplier, coordinates)
    once = subject.mechanism(noise_multiplier, subject.randomness(generator, arithmetic), arithmetic)
    seen: dict[bool, dict[str, NDArray[np.float64]]] = {}
    for present in (True, False):
        total = subject.sum_of(noise_multiplier, present, coordinates)
        if coordinates == 1:
            numbers = np.array([once(total)[0] for _ in range(trials)])
            seen[present] = {key: statistic(numbers, step) for key, statistic in statistics.items()}
        else:
            rows = [
                [statistic(once_more, step)[0] for statistic in statistics.values()]
                for once_more in (once(total) for _ in range(trials))
            ]
            seen[present] = dict(zip(statistics, np.array(rows).T, strict=True))

    def bound(statistic: str) -> Measured:
        return measure(
            lambda _, __, present: seen[present][statistic],
            trials,
            subject.delta,
            generator,
            confidence=1 - (1 - CONFIDENCE) / TESTS,
        )

    return {statistic: bound(statistic) for statistic in statistics}


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the rows, with bounds above the claim in red."""
    made = Table(title=f"Low bits: epsilon at least, at {CONFIDENCE:.0%} for all together")
    for column in ("mechanism", "arithmetic", "z", "claimed", "largest", "by"):
        made.add_column(column, justify="left" if column in ("mechanism", "arithmetic", "by") else "right")
    for row in rows:
        statistic, largest = max(row["measured"].items(), key=lambda item: item[1])
        colour = "red" if largest > row["claimed"] else "green"
        made.add_row(
            row["subject"],
            row["arithmetic"],
            f"{row['noise-multiplier']:g}",
            f"{row['claimed']:.4g}",
            f"[{colour}]{largest:.4g}[/{colour}]",
            statistic if largest else "",
        )
    return made


def _kept(file: Path | None) -> list[dict[str, Any]]:
    if file is None or not file.exists():
        return []
    try:
        rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"]
    except (ValueError, KeyError, TypeError):
        command.refuse(f"--json {str(file)!r}: is there, and is no result of this script")
    return rows


def _name(text: str) -> str:
    if text not in SUBJECTS:
        raise argparse.ArgumentTypeError(f"{text!r}: must be of {', '.join(SUBJECTS)}")
    return text


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> None:
    """Audit subjects that are not in the file yet, and print the table; exit 1 if a bound exceeds its claim."""
    parser = command.arguments(__doc__)
    parser.add_argument("names", nargs="*", type=_name, metavar="NAME", help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--trials", type=command.positive, default=TRIALS, help=f"default: {TRIALS}")
    parser.add_argument("--vectors", type=command.positive, default=VECTORS, help=f"default: {VECTORS}")
    parser.add_argument(
        "--arithmetic",
        choices=list(Arithmetic),
        type=Arithmetic,
        default=Arithmetic.GRID,
        help="float32 shows what low bits say of noise that is added as floating-point numbers",
    )
    given = parser.parse_args(arguments)
    console = console or command.console()
    rows, wanted = _kept(given.json), []
    for name in given.names or SUBJECTS:
        for noise_multiplier in NOISE_MULTIPLIERS:
            terms = {
                "subject": name,
                "noise-multiplier": noise_multiplier,
                "arithmetic": given.arithmetic.value,
                "trials": given.trials,
                "seed": given.seed,
            }
            row = next((row for row in rows if terms.items() <= row.items()), None)
            if row is None:
                row = audit(name, noise_multiplier, given.trials, given.vectors, given.seed, given.arithmetic)
                rows.append(row)
                console.print(f"{name}, z = {noise_multiplier:g}: {row['seconds']} s", highlight=False)
                if given.json:
                    tree = {"confidence": CONFIDENCE, "tests": TESTS, "host": host.describe(), "rows": rows}
                    write_whole(given.json, json.dumps(tree, indent=2).encode() + b"\n")
            wanted.append(row)
    console.print(table(wanted), highlight=False)
    worst = max(max(row["measured"].values()) / row["claimed"] for row in wanted)
    if not math.isfinite(worst) or worst > 1:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
