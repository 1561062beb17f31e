"""The ServerApp: from a run config to a run directory."""

from __future__ import annotations

from collections.abc import Mapping
from logging import INFO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log
from torch import nn

from fedsim import progress
from fedsim.arrays import record_of
from fedsim.data import FederatedData, prepare
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.models import Score, initial_model, score
from fedsim.results import RunDirectory, default_run_path
from fedsim.threads import cores
from server.enrolment import enrol
from server.rounds import Federation
from server.strategies import build_strategy

app = ServerApp()


class FlowerLog:
    """Tells Flower's log, where `flwr run` shows it, how a run is going."""

    rounds = 0

    def started(self, path: Path, rounds: int) -> None:
        """Say where the run is written."""
        self.rounds = rounds
        log(INFO, "fedsim: %d rounds, written to %s", rounds, path)

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Say how the round went."""
        values = ", ".join(f"{name} {value}" for name, value in row.items() if name != "round")
        log(INFO, "round %d/%d: %s", row["round"], self.rounds, values)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment of the run config; `run-dir` names the run directory, if it isn't empty."""
    experiment = Experiment.from_run_config(context.run_config)
    data = prepare(experiment)
    if experiment.server.cohort > data.clients:
        raise Refused(
            f"server.cohort = {experiment.server.cohort}: must be at most the {data.clients} clients"
        )
    model = initial_model(experiment, data.task)
    strategy = build_strategy(experiment)
    federation = Federation(
        experiment=experiment,
        grid=grid,
        nodes=enrol(grid, data.clients, experiment.server.timeout),
        strategy=strategy,
        arrays=record_of({name: np.array(t.numpy(), order="C") for name, t in model.state_dict().items()}),
        evaluate=lambda arrays: _score(model, arrays, data),
    )
    path = Path(str(context.run_config.get("run-dir") or default_run_path(experiment)))
    listener = progress.current() or FlowerLog()
    with RunDirectory.create(path, experiment, data.sha256) as directory:
        listener.started(path, experiment.rounds)

        def write(row: dict[str, Any]) -> None:
            directory.append_round(row)
            listener.round_done(row)

        federation.run(write)
        directory.write_model({name: array.numpy() for name, array in federation.arrays.items()})


def _score(model: nn.Module, arrays: ArrayRecord, data: FederatedData) -> Score:
    model.load_state_dict({name: torch.from_numpy(array.numpy()) for name, array in arrays.items()})
    return score(model, data.test, threads=cores())
