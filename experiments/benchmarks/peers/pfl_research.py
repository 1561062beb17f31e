"""pfl-research: federated averaging on its simulated backend. Runs in an environment of its own.

torchrun (`python -m torch.distributed.run`) starts several processes. Faster than pfl-research's examples in one
point: the users' data sets are made once, not each time a user is drawn.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from fedsim.experiments.benchmarks.peers.clock import Clock
from fedsim.experiments.benchmarks.peers.network import central_loss, count, network
from fedsim.experiments.benchmarks.work import Report, Work


class Module(nn.Module):
    """The network with the two methods that pfl-research requires."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean cross-entropy of a batch."""
        return F.cross_entropy(self.net(x), y)

    @torch.no_grad()
    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """Return the summed cross-entropy of a batch, with how many examples it has."""
        return {"loss": Weighted(F.cross_entropy(self.net(x), y, reduction="sum").item(), len(y))}


class Stopwatch(TrainingProcessCallback):  # type: ignore[misc]  # pfl is not here when types are checked
    """Notes the time when training begins and after each round."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_train_begin(self, *, model: Any) -> Any:
        """Look at the clock."""
        self.clock.start()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Any, model: Any, *, central_iteration: int
    ) -> tuple[bool, Any]:
        """Look at the clock, and go on."""
        self.clock.lap()
        return False, Metrics()


def run(work: Work, channels_last: bool) -> tuple[Clock, nn.Module]:
    """Run the rounds; return their times, and the network."""
    case = work.case
    x, y = (torch.from_numpy(array) for array in work.clients())
    users = {
        c: PyTorchTensorDataset((x[c], y[c]), user_id=str(c))
        for c in work.stream(2).permutation(case.clients)
    }
    data = FederatedDataset(users.__getitem__, get_user_sampler("minimize_reuse", list(users)))
    net = network(work.weights(), channels_last)
    module = Module(net)
    model = PyTorchModel(
        module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    watch = Stopwatch()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=work.rounds,
            evaluation_frequency=work.rounds + 1,  # only the first round's clients evaluate
            train_cohort_size=case.cohort,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=case.learning_rate, local_batch_size=case.batch
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[watch],
        send_metrics_to_platform=False,
    )
    return watch.clock, net


def main() -> None:
    """Do the work and report; of several processes the first one reports."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("work")
    parser.add_argument("report")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    work = Work.load(arguments.work)
    clock, net = run(work, arguments.channels_last)
    if pytorch_ops.distributed.global_rank == 0:
        versions = {name: version(name) for name in ("pfl", "torch", "numpy")}
        Report(clock.began, clock.seconds, central_loss(net, work), count(net), versions).save(
            arguments.report
        )


if __name__ == "__main__":
    main()
