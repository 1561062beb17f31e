"""Data, model and settings that the clients of a process share."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message

from fedsim.algorithms.build import algorithm_of, first_fields
from fedsim.arrays import LiveArray, arrays_in, record_of
from fedsim.clients.process import ClientProcess
from fedsim.clients.training import PlainKernel
from fedsim.data import FederatedData, prepare
from fedsim.data.own import OwnData, read_own
from fedsim.data.spec import SPEC, DataSpec
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.layout import Layout
from fedsim.messages import CONFIG, CONSTANTS, RUN
from fedsim.models import initial_state
from fedsim.optimizers import Optimizer
from fedsim.optimizers.build import build_optimizer, check_optimizer
from fedsim.options import OwnOptions
from fedsim.privacy.halves import ClientRound
from fedsim.records import config_in, record_in
from fedsim.secagg.setup import policy_of
from fedsim.streams import numpy_stream
from fedsim.tasks.build import task_of
from fedsim.training import client_half_of
from fedsim.transforms.build import transforms_of


class ClientRuntime:
    """Data, model and settings of a process, used by one client at a time; each client loads its weights first.

    Attributes:
        data: All clients' examples, or a single client's own.
        state: What of the model training may change.
        model: Trained in place; its tensors keep their memory.
        half: The client's part of the privacy mechanism.
        kernel: Computes the gradients of local training.
        trained: The model's trainable parameters, by name.
        first_fields: The algorithm's fields before the first round.
        layout: Of an update.
        transforms: Applied to an update after training.
        policy: Policy of secure aggregation that the clients accept; None without it.
    """

    def __init__(self, experiment: Experiment, data: FederatedData | OwnData) -> None:
        self.experiment = experiment
        self.data = data
        self.task = task_of(experiment, data.spec)
        self.state = initial_state(experiment, self.task, data.spec)
        self.model = self.state.model
        self.trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        check_optimizer(experiment.client, list(self.trained.values()))
        self.half = client_half_of(experiment)
        plain = PlainKernel(self.model, self.task.loss, experiment.client.work, self._shuffle)
        self.kernel = self.half.kernel(self.model, self.task.losses, plain)
        self.algorithm = algorithm_of(experiment)
        first = self.state.values()
        self.first_fields = first_fields(self.algorithm, first, self.trained)
        self.layout = Layout.of(record_of(first), self.algorithm, self.first_fields)
        self.transforms = transforms_of(experiment)
        self.policy = policy_of(experiment, self.layout.dimension, self.data.training_sizes())
        self._lent: list[weakref.ref[LiveArray]] = []

    def load(self, arrays: ArrayRecord) -> None:
        """Load the weights of a message into the model; `ValueError` if they don't fit it."""
        for reference in self._lent:
            if (array := reference()) is not None:
                array.detach()
        self._lent.clear()
        self.state.load(arrays_in(arrays))

    def check_constants(self, config: Mapping[str, Any]) -> None:
        """Raise `ValueError` if the server's model has other constants, which are built and not sent."""
        if config.get(CONSTANTS, self.state.constants_sha256) != self.state.constants_sha256:
            names = ", ".join(self.state.constants[:3])
            raise ValueError(
                f"the model's frozen parameters and constant buffers ({names}) are not the server's: its code must "
                "make the same ones on every machine"
            )

    def optimizer(self, rate: float) -> Optimizer:
        """Return an optimizer of the model's parameters at a learning rate, with fresh state."""
        return build_optimizer(self.experiment.client, list(self.trained.values()), rate)

    def arrays(self) -> ArrayRecord:
        """Return the model's current weights, unaffected by later changes of the model.

        They are copied only if they are still in use when the model is next loaded. An engine that sums them at once
        needs no copy.
        """
        record = record_of(self.state.values())
        self._lent = [weakref.ref(cast(LiveArray, array)) for array in record.values()]
        return record

    def _shuffle(self, at: ClientRound) -> np.random.Generator:
        return numpy_stream(self.experiment.seed, "batches", round_=at.round, client=at.client)


def client_index(context: Context) -> int:
    """Return a context's client number."""
    return int(context.node_config["partition-id"])


def server_round(message: Message) -> int:
    """Return the round of a train message."""
    return int(record_in(message.content, ConfigRecord, CONFIG)["server-round"])  # type: ignore[arg-type]


def client_round(context: Context, config: Mapping[str, Any], records: int) -> ClientRound:
    """Return a client's round, from the config of its train message and its number of training records."""
    return ClientRound(
        round=int(config["server-round"]), client=client_index(context), records=records, instructions=config
    )


@functools.lru_cache(maxsize=2)
def _client_runtime(run: str, experiment: str, overrides: str, own: str, spec: str) -> ClientRuntime:
    """Return the runtime of a run: a later one may be of other data or code by the same names."""
    known = Experiment.from_run_config({"experiment": experiment, "set": overrides})
    brought = own or known.data.source_entry.by_clients
    return ClientRuntime(known, _own_data(known, own, spec) if brought else prepare(known))


def _own_data(experiment: Experiment, path: str, spec: str) -> OwnData:
    """Return the examples in a client's own file; `Refused` if one is missing, or not what the experiment uses."""
    data = experiment.data
    if not path:
        raise Refused(
            f"data.source = {data.source!r}: a client needs its own file: fedsim client --data PATH"
        )
    if not data.source_entry.by_clients:
        raise Refused(f"data.source = {data.source!r}: has the clients' data; with --data it must be 'own'")
    file = read_own(Path(path), f"--data {path!r}", experiment.task_entry.targets())
    options = cast(OwnOptions, data.pick(data.source_entry))
    return OwnData(file, DataSpec.loads(spec), data.held_out, data.clients or 0, options)


def client_runtime(context: Context) -> ClientRuntime:
    """Return this process's runtime for a context's experiment; `ValueError` if the client process refuses that."""
    config = context.run_config
    process, own, spec = ClientProcess.of(context), "", ""
    if process is not None and process.data is not None:
        own = str(process.data)
        spec = str(config_in(context.state, SPEC).get("spec", ""))
    run = str(config.get(RUN) or context.run_id)
    runtime = _client_runtime(run, str(config.get("experiment", "")), str(config.get("set", "")), own, spec)
    if process is not None:
        process.check(runtime.experiment)
    return runtime
