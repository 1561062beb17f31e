"""What client-level privacy costs a round: DP-FedAvg beside the same rounds without it, on fedsim.

    python -m experiments.benchmarks.client_level --json client_level.json

The case `cross-device` of `experiments.benchmarks.rounds`: 1,000 clients, 100 a round, 10 examples each, a CNN of
215,370 parameters. Both run in turn, so that a machine that grows slower does so for both; rounds that warm up, and
the last, which evaluates, don't count.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

import fedsim
from experiments.benchmarks import command, host
from experiments.benchmarks.setting import cache_in, set_up
from experiments.benchmarks.work import CASES, Work
from fedsim.threads import cores

TARGET = 1.05
PLAIN = ("server.weighting=uniform",)
PRIVATE = tuple(f"privacy.dp-fedavg.{value}" for value in ("noise-multiplier=1.0", "delta=1e-5", "clip=0.5"))
WARMUP = 3


def seconds_of(folder: Path, overrides: Sequence[str], name: str) -> list[float]:
    """Return the seconds of a run's rounds, without those that warm up and the one that evaluates."""
    experiment = fedsim.Experiment.load(folder / "experiment.toml", overrides)
    run = fedsim.run(experiment, folder / name)
    return [row["seconds"] for row in run.rows[WARMUP:-1]]


def main(argv: Sequence[str] | None = None) -> None:
    """Run both in turn, print the table and the target."""
    parser = command.arguments(__doc__)
    parser.add_argument("--repeats", type=command.positive, default=5, help="of each (default: 5)")
    parser.add_argument("--rounds", type=command.positive, default=12, help="timed, in a run (default: 12)")
    asked = parser.parse_args(argv)
    found: dict[str, list[float]] = {"plain": [], "dp-fedavg": []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        work = Work(CASES["cross-device"], WARMUP, asked.rounds, asked.seed, cores(), folder)
        set_up(work)
        with cache_in(folder):
            for repeat in range(asked.repeats):
                for name, overrides in (("plain", PLAIN), ("dp-fedavg", PRIVATE)):
                    seconds = seconds_of(folder, overrides, f"{name}-{repeat}")
                    found[name].append(statistics.median(seconds))
    ratios = [private / plain for plain, private in zip(found["plain"], found["dp-fedavg"], strict=True)]
    table = Table(title="cross-device: seconds a round, medians over repeats")
    for column in ("who", "a round", "lowest to highest"):
        table.add_column(column, no_wrap=True)
    for name, medians in found.items():
        table.add_row(name, f"{statistics.median(medians):.3f}", f"{min(medians):.3f} to {max(medians):.3f}")
    console = command.console()
    console.print(table)
    middle = statistics.median(ratios)
    console.print(
        f"target: at most {TARGET} times a round without privacy; measured: {middle:.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )
    if asked.json:
        asked.json.write_text(
            json.dumps({"host": host.describe(), "seconds": found, "ratios": ratios}, indent=2)
        )


if __name__ == "__main__":
    main()
