"""fedsim itself: the work as an experiment, through `fedsim.run`.

A round lasts from the end of the one before to its own end, including fedsim's writing and progress in between.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fedsim
from fedsim.experiments.benchmarks.peers.clock import Clock
from fedsim.experiments.benchmarks.work import Report, Work
from fedsim.progress import Silent


class Listener(Silent):
    """A listener that notes times."""

    def __init__(self) -> None:
        self.clock = Clock()

    def started(self, path: Path, rounds: int, done: int) -> None:
        """Note the time before the first round."""
        self.clock.start()

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Note the time after a round.

        Raises:
            RuntimeError: Clients failed, so less work was done.
        """
        self.clock.lap()
        if row["failures"]:
            raise RuntimeError(f"round {row['round']}: {row['failure-reasons'][0]}")


def main() -> None:
    """Run `experiment.toml` beside the work, and report; `--set` overrides its keys."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("work")
    parser.add_argument("report")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    folder = Work.load(arguments.work).folder
    experiment = fedsim.Experiment.load(folder / "experiment.toml", arguments.set)
    listener = Listener()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        run = fedsim.run(experiment, Path(out) / "run", listener)
        loss, model = run.loss, run.model()
    if loss is None:
        raise RuntimeError("the last round was not evaluated")
    Report(
        began=listener.clock.began,
        seconds=listener.clock.seconds,
        test_loss=loss,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        versions={name: version(name) for name in ("fedsim", "flwr", "torch", "numpy")},
    ).save(arguments.report)


if __name__ == "__main__":
    main()
