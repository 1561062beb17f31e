"""Reading run directories."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import Refused
from fedsim.results.disclosure import LEDGER, METRICS, PRIVATE, ROWS
from fedsim.results.files import rows_in
from fedsim.results.lock import is_held
from fedsim.tasks.metric import Scoring

if TYPE_CHECKING:
    import polars as pl
    import torch

    from fedsim.experiment import Experiment


class Run:
    """The run directory at `path`, finished or under way."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "manifest.json").is_file():
            raise Refused(f"run {str(path)!r}: has no manifest.json; a run directory is needed")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status})"

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest, as it is now."""
        tree: dict[str, Any] = json.loads((self.path / "manifest.json").read_text())
        return tree

    @property
    def status(self) -> str:
        """Status of the run.

        `running`; `completed`; `failed` (the manifest says why); `interrupted` by SIGINT, SIGTERM or SIGHUP after a whole
        round; `pruned` by a sweep, after the manifest's `pruned-after` rounds; `killed`: the manifest says `running`,
        but no process writes it. All except the first two can be resumed, unless the manifest's `resumable` is false.
        """
        status = str(self.manifest["status"])
        if status == "running" and is_held(self.path) is False:
            status = str(self.manifest["status"])  # it may just have ended
            return "killed" if status == "running" else status
        return status

    @property
    def kind(self) -> str:
        """`experiment`, or `flower-app`: any other Flower app, with metrics unknown to fedsim."""
        return str(self.manifest.get("kind", "experiment"))

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment, with every default; raises `Refused` for a Flower app."""
        from fedsim.experiment import Experiment

        if self.kind != "experiment":
            raise Refused(f"run {str(self.path)!r}: is a {self.kind}; the run of an experiment is needed")
        return Experiment.load(self.path / "experiment.toml")

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, none for a Flower app; a last line being written is left out.

        With the operating system's noise they hold only public values (`fedsim.results.disclosure`).
        """
        if self.kind != "experiment":
            return []
        return rows_in((self.path / METRICS).read_bytes())

    @property
    def private_rows(self) -> list[dict[str, Any]]:
        """The full rows of a run with the operating system's noise, for its owner: no theorem covers them.

        Raises:
            Refused: There are none: noise is seeded, so that `rows` are complete; or this is a copy or an export.
        """
        file = self.path / ROWS
        if not file.is_file():
            raise Refused(f"run {str(self.path)!r}: has no {ROWS}")
        return rows_in(file.read_bytes())

    @property
    def ledger(self) -> Path:
        """Path of its privacy events: `ledger.jsonl`, in `private/` with the operating system's noise."""
        private = self.path / PRIVATE / LEDGER
        return private if private.is_file() else self.path / LEDGER

    @property
    def metrics(self) -> pl.DataFrame:
        """One row a round; unmeasured values are null, and those that are not finite."""
        import polars as pl

        return pl.DataFrame(self.rows, infer_schema_length=None)

    def last(self, name: str) -> float | None:
        """Return a metric's last value, None if it is not finite, or was never measured."""
        return next((row[name] for row in reversed(self.rows) if name in row), None)

    @property
    def scoring(self) -> Scoring:
        """The metrics of its task; the first is the headline metric."""
        return Scoring.of(self.manifest)

    @property
    def headline(self) -> float | None:
        """The headline metric on the central test set, when last evaluated."""
        return self.last(self.scoring.headline.name)

    @property
    def accuracy(self) -> float | None:
        """Accuracy on the central test set, from 0 to 1, when last evaluated; None for a task without."""
        return self.last("accuracy")

    @property
    def loss(self) -> float | None:
        """The task's mean loss on the central test set, when last evaluated: for labels, cross-entropy in nats."""
        return self.last("loss")

    def model(self) -> torch.nn.Module:
        """Return the model with its final weights, in evaluation mode.

        Raises:
            Refused: The run is not completed, so there are none.
        """
        from safetensors.torch import load_file

        from fedsim.data import prepare
        from fedsim.models import build
        from fedsim.models.state import EXTRA_STATE
        from fedsim.tasks.build import task_of

        weights = self.path / "model.safetensors"
        if not weights.is_file():
            raise Refused(f"run {str(self.path)!r}: has no model.safetensors; it is {self.status}")
        model = build(self.experiment.model, task_of(self.experiment, prepare(self.experiment).spec))
        extra = {name: value for name, value in model.state_dict().items() if name.endswith(EXTRA_STATE)}
        model.load_state_dict({**extra, **load_file(weights)})
        return model.eval()


def numbers_of(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield a row's numbers, except the round."""
    for name, value in row.items():
        if name != "round" and isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def load_run(path: str | Path) -> Run:
    """Open a run directory; raises `Refused` if there is none."""
    return Run(path)
