"""Rounds as MLflow's metrics, settings as its parameters."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsim.errors import Refused
from fedsim.results.frames import settings_of
from fedsim.results.run import Run, numbers_of

LOCAL = "sqlite:///mlflow.db"
RUN_ID = "fedsim.run-id"  # the tag by which a resumed run is found
ENDS = {"completed": "FINISHED", "failed": "FAILED"}  # all others: KILLED


class MLflowTracker:
    """Writes an MLflow run, in an experiment with the run's name.

    Args:
        uri: MLflow's tracking URI of a server or a database; empty: the environment's `MLFLOW_TRACKING_URI`, else
            `sqlite:///mlflow.db` in the current folder.

    Raises:
        Refused: MLflow is not installed.
    """

    def __init__(self, uri: str = "") -> None:
        try:
            from mlflow import MlflowClient  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            raise Refused("--track mlflow: MLflow is not installed; pip install 'fedsim[mlflow]'") from None
        self._make = MlflowClient
        self._uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or LOCAL
        self._client: Any = None
        self._run = ""

    def on_round(self, run: Run, row: Mapping[str, Any]) -> None:
        """Write a round; before the first, the settings, and earlier rounds that a kill may have kept from MLflow."""
        if self._client is not None:
            self._write(row)
            return
        with _one_at_a_time():
            self._client = self._make(tracking_uri=self._uri)
            self._run = self._begun(run)
        told = self._told(run)
        for each in run.rows:
            if each["round"] > told:
                self._write(each)

    def _told(self, run: Run) -> int:
        """Return the last round that MLflow has completely."""
        lasts = {name for row in run.rows for name in list(dict(numbers_of(row)))[-1:]}
        histories = [self._client.get_metric_history(self._run, name) for name in sorted(lasts)]
        return max((metric.step for history in histories for metric in history), default=0)

    def _write(self, row: Mapping[str, Any]) -> None:
        for name, value in numbers_of(row):
            self._client.log_metric(self._run, name, value, step=row["round"])

    def on_end(self, run: Run) -> None:
        """Write the run's final status."""
        if self._client is not None:
            self._client.set_terminated(self._run, ENDS.get(run.status, "KILLED"))
            self._client = None

    def _begun(self, run: Run) -> str:
        """Return MLflow's run of an earlier session, set to running again, or a new one."""
        manifest = run.manifest
        experiment = self._client.get_experiment_by_name(manifest["name"])
        place = experiment.experiment_id if experiment else self._client.create_experiment(manifest["name"])
        wanted = f"tags.`{RUN_ID}` = '{manifest['run-id']}'"
        for found in self._client.search_runs([place], filter_string=wanted):
            self._client.update_run(found.info.run_id, status="RUNNING")
            return str(found.info.run_id)
        tags = {
            RUN_ID: manifest["run-id"],
            "fedsim.path": str(run.path),
            "fedsim.commit": str(manifest["commit"]),
        }
        run_id = str(self._client.create_run(place, run_name=run.path.name, tags=tags).info.run_id)
        for name, value in settings_of(run).items():
            if value is not None:
                self._client.log_param(run_id, name, value)
        return run_id


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let one process of this user begin at a time: parallel runs would create the same database and experiment."""
    lock = Path(tempfile.gettempdir()) / f"fedsim-mlflow-{os.getuid()}.lock"
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        yield
