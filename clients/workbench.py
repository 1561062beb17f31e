"""What all clients of one process share: data, model and optimiser, made once and reset for each client."""

from __future__ import annotations

import functools
import weakref
from pathlib import Path
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, Context

from fedsim.arrays import LiveArray, record_of, values_of
from fedsim.clients.place import Place
from fedsim.clients.training import Sgd
from fedsim.data import FederatedData, prepare
from fedsim.data.own import OwnData, read_own
from fedsim.data.spec import SPEC, DataSpec
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.models import initial_model
from fedsim.models.private import private_gradient
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.records import config_in
from fedsim.secagg.setup import policy_of
from fedsim.tasks.build import targets_of, task_of
from fedsim.vectors import dimension_of


class Workbench:
    """A model that clients take turns with; whoever is at it loads the weights that it needs first.

    Attributes:
        experiment: Says how.
        data: All clients' examples, or those of the one client that brings its own.
        task: What the model is asked to do.
        model: Trained in place; its tensors stay where they are in memory.
        optimizer: Of the model's parameters.
        gradient: Of the model, clipped and noised; None where the experiment trains without DP-SGD.
        local_noise: The noise multiplier of clients that noise their own updates; None where they don't.
        policy: What its clients accept of secure aggregation; None where the experiment has none.
    """

    def __init__(self, experiment: Experiment, data: FederatedData | OwnData) -> None:
        self.experiment = experiment
        self.data = data
        self.task = task_of(experiment, data.spec)
        self.model = initial_model(experiment, self.task)
        self.optimizer = Sgd(self.model, experiment.client)
        dp_sgd = experiment.privacy.dp_sgd
        self.gradient = (
            None
            if dp_sgd is None
            else private_gradient(self.model, self.task, dp_sgd, Arithmetic(experiment.privacy.arithmetic))
        )
        local_dp = experiment.privacy.local_dp
        self.local_noise = None if local_dp is None else local_dp.calibrated(experiment.rounds)
        self._memory = {name: tensor.numpy() for name, tensor in self.model.state_dict().items()}
        dimension = dimension_of(memory.shape for memory in self._memory.values())
        self.policy = policy_of(experiment, dimension, self.data.training_sizes())
        self._lent: list[weakref.ref[LiveArray]] = []

    def load(self, arrays: ArrayRecord) -> None:
        """Put the weights of a message into the model.

        Raises:
            ValueError: They are not this model's.
        """
        if arrays.keys() != self._memory.keys():
            odd = sorted(arrays.keys() ^ self._memory.keys())
            raise ValueError(f"the message's arrays are not this model's: {', '.join(odd[:3])}")
        self._let_go()
        for name, memory in self._memory.items():
            values = values_of(arrays[name])
            if values.shape != memory.shape:
                raise ValueError(f"the message's {name} has shape {values.shape}, the model's {memory.shape}")
            np.copyto(memory, values)

    def arrays(self) -> ArrayRecord:
        """Return the model's weights, which stay as they are now whatever becomes of the model.

        They are copied only where someone still has them when the model is loaded anew: an engine that adds
        them up at once never does.
        """
        record = record_of(self._memory)
        self._lent = [weakref.ref(cast(LiveArray, array)) for array in record.values()]
        return record

    def _let_go(self) -> None:
        """Give the arrays that someone still has a copy of their own."""
        for reference in self._lent:
            if (array := reference()) is not None:
                array.detach()
        self._lent.clear()


def client_index(context: Context) -> int:
    """Return which client a context belongs to."""
    return int(context.node_config["partition-id"])


@functools.lru_cache(maxsize=2)
def _workbench(experiment: str, overrides: str, own: str, spec: str) -> Workbench:
    known = Experiment.from_run_config({"experiment": experiment, "set": overrides})
    return Workbench(
        known, _own_data(known, own, spec) if own or known.data.source_entry.by_clients else prepare(known)
    )


def _own_data(experiment: Experiment, path: str, spec: str) -> OwnData:
    """Return the examples in a client's own file.

    Raises:
        Refused: The client has none, or the experiment has the clients' data already.
    """
    data = experiment.data
    if not path:
        raise Refused(
            f"data.source = {data.source!r}: a client needs its own file: fedsim client --data PATH"
        )
    if not data.source_entry.by_clients:
        raise Refused(f"data.source = {data.source!r}: has the clients' data; with --data it must be 'own'")
    file = read_own(Path(path), f"--data {path!r}", targets_of(experiment))
    return OwnData(file, DataSpec.loads(spec), data.held_out, data.clients or 0)


def workbench(context: Context) -> Workbench:
    """Return this process's workbench for the experiment in the run config of a context.

    Raises:
        ValueError: A client process does not run that experiment.
    """
    config = context.run_config
    place, own, spec = Place.of(context), "", ""
    if place is not None and place.data is not None:
        own = str(place.data)
        spec = str(config_in(context.state, SPEC).get("spec", ""))
    bench = _workbench(str(config.get("experiment", "")), str(config.get("set", "")), own, spec)
    if place is not None:
        place.check(bench.experiment)
    return bench
