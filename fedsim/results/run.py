"""Reading run directories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import Refused
from fedsim.results.disclosure import EXPERIMENT, LEDGER, MANIFEST, METRICS, PRIVATE, ROWS
from fedsim.results.files import check_types, rows_of, unless_damaged
from fedsim.results.lock import is_held
from fedsim.results.manifest import read_manifest
from fedsim.tasks.metric import Scoring

if TYPE_CHECKING:
    import polars as pl
    import torch

    from fedsim.experiment import Experiment


NUMBERS = (int, float, type(None))
TYPES = {  # of a row's values
    "round": (int,),
    **dict.fromkeys(("clients", "failures", "secagg-bytes-up", "secagg-bytes-down"), (int,)),
    **dict.fromkeys(("seconds", "train-loss", "epsilon-server"), NUMBERS),
    **dict.fromkeys(("epsilon-known-cohort", "epsilon-released-models"), NUMBERS),
    **dict.fromkeys(("noise-multiplier", "sampling-rate", "delta"), NUMBERS),
    "dp-steps": (int, type(None)),
    "failure-reasons": (list,),
}
MOST = 2**63 - 1  # of an integer in a frame


class Run:
    """The run directory at `path`, finished or under way."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / MANIFEST).is_file():
            raise Refused(f"run {str(path)!r}: has no manifest.json; a run directory is needed")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status})"

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest, as it is now; this and all that is read from files raises `Refused` for damaged ones."""
        with self._reading():
            return read_manifest(self.path / MANIFEST)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Name the run where a file of it can't be read."""
        try:
            yield
        except OSError as error:
            raise Refused(f"run {str(self.path)!r}: {error.filename}: {error.strerror}") from None
        except Refused as refused:
            raise Refused(f"run {str(self.path)!r}: {refused}") from refused.__cause__

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
        with self._reading():
            if not (self.path / EXPERIMENT).is_file():
                raise Refused(f"has no {EXPERIMENT}")
            with unless_damaged(self.path / EXPERIMENT):
                return Experiment.load(self.path / EXPERIMENT)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, none for a Flower app; a last line being written is left out.

        With the operating system's noise they hold only public values (`fedsim.results.disclosure`).
        """
        if self.kind != "experiment":
            return []
        return self._rows_of(METRICS)

    def _rows_of(self, name: str) -> list[dict[str, Any]]:
        with self._reading(), unless_damaged(self.path / name):
            rows = rows_of(self.path / name)
            numbers = {**dict.fromkeys(self.scoring.names, NUMBERS), **TYPES}
            for row in rows:
                check_types(row, numbers)
                if "round" not in row or not all(abs(v) <= MOST for v in row.values() if type(v) is int):
                    raise ValueError("a row has no round, or a number that is too large")
            return rows

    @property
    def private_rows(self) -> list[dict[str, Any]]:
        """The full rows of a run with the operating system's noise, for its owner: no theorem covers them.

        Raises:
            Refused: There are none: noise is seeded, so that `rows` are complete; or this is a copy or an export.
        """
        file = self.path / ROWS
        if not file.is_file():
            raise Refused(f"run {str(self.path)!r}: has no {ROWS}")
        return self._rows_of(ROWS)

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
