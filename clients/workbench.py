"""What all clients of one process share: data, model and optimiser, made once and reset for each client."""

from __future__ import annotations

import functools

import numpy as np
from flwr.app import ArrayRecord, Context

from clients.training import Sgd
from fedsim.arrays import record_of, values_of
from fedsim.data import FederatedData, prepare
from fedsim.experiment import Experiment
from fedsim.models import initial_model


class Workbench:
    """A model that clients take turns with; whoever is at it loads the weights that it needs first.

    Attributes:
        experiment: Says how.
        data: All clients' examples.
        model: Trained in place; its tensors stay where they are in memory.
        optimizer: Of the model's parameters.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.data: FederatedData = prepare(experiment)
        self.model = initial_model(experiment, self.data.task)
        self.optimizer = Sgd(self.model, experiment.client)
        self._memory = {name: tensor.numpy() for name, tensor in self.model.state_dict().items()}

    def load(self, arrays: ArrayRecord) -> None:
        """Put the weights of a message into the model.

        Raises:
            ValueError: They are not this model's.
        """
        if arrays.keys() != self._memory.keys():
            odd = sorted(arrays.keys() ^ self._memory.keys())
            raise ValueError(f"the message's arrays are not this model's: {', '.join(odd[:3])}")
        for name, memory in self._memory.items():
            values = values_of(arrays[name])
            if values.shape != memory.shape:
                raise ValueError(f"the message's {name} has shape {values.shape}, the model's {memory.shape}")
            np.copyto(memory, values)

    def arrays(self) -> ArrayRecord:
        """Return a copy of the model's weights."""
        return record_of({name: np.array(memory, order="C") for name, memory in self._memory.items()})


@functools.lru_cache(maxsize=2)
def _workbench(experiment: str, overrides: str) -> Workbench:
    return Workbench(Experiment.from_run_config({"experiment": experiment, "set": overrides}))


def workbench(context: Context) -> Workbench:
    """Return this process's workbench for the experiment in the run config of a context."""
    config = context.run_config
    return _workbench(str(config.get("experiment", "")), str(config.get("set", "")))
