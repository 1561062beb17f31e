"""The bare loop: federated averaging in plain PyTorch, in one process or several.

A round, in each process: for its share of the cohort, load the global weights, run the steps of SGD, add the weights
to a sum. The sums are in shared memory; the first process averages them.
"""

from __future__ import annotations

import argparse
import threading
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
import torch
from torch import Tensor, multiprocessing

from fedsim.experiments.benchmarks.peers.clock import Clock
from fedsim.experiments.benchmarks.peers.network import central_loss, count, fill, network, train
from fedsim.experiments.benchmarks.work import Report, Work

TIMEOUT = 600.0  # seconds that a process waits for another before it gives up


class Share:
    """One process of the loop: its model, and its part of every cohort.

    Args:
        work: The work.
        rank: Index of the process.
        weights: The global weights, shared.
        sums: Each process's sum, `(processes, *shape)` for each array of the weights, shared.
        channels_last: Memory format of the model.
    """

    def __init__(
        self, work: Work, rank: int, weights: list[Tensor], sums: list[Tensor], channels_last: bool
    ) -> None:
        torch.set_num_threads(1)
        self.work, self.rank, self.weights, self.sums = work, rank, weights, sums
        self.model = network(channels_last=channels_last)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=work.case.learning_rate)
        self.x, self.y = (torch.from_numpy(array) for array in work.clients())

    def train(self, round_: int) -> None:
        """Train this process's clients of a round, and write the sum of their weights."""
        processes = len(self.sums[0])
        mine = [sums[self.rank] for sums in self.sums]
        for total in mine:
            total.zero_()
        for client in self.work.cohort(round_)[self.rank :: processes].tolist():
            fill(self.parameters, self.weights)
            shuffle = self.work.stream(1, round_, client)
            train(self.model, self.optimizer, self.x[client], self.y[client], self.work.case.batch, shuffle)
            with torch.no_grad():
                for total, parameter in zip(mine, self.parameters, strict=True):
                    total.add_(parameter)

    def average(self) -> None:
        """Make the next global weights; clients have equal numbers of examples, so equal weights."""
        for weight, sums in zip(self.weights, self.sums, strict=True):
            torch.div(sums.sum(0), self.work.case.cohort, out=weight)


def _help(rank: int, barrier: Barrier, work: Work, *arguments: Any) -> None:
    """Run the rounds in a process other than the first."""
    share = Share(work, rank, *arguments)
    for round_ in range(1, work.rounds + 1):
        barrier.wait(TIMEOUT)  # the global weights are there
        share.train(round_)
        barrier.wait(TIMEOUT)  # the sums are there


def run(work: Work, processes: int, channels_last: bool) -> tuple[Clock, list[Tensor]]:
    """Run the rounds; return their times, and the final global weights in the order of the model's parameters."""
    weights = [torch.from_numpy(array) for array in work.weights()]
    sums = [torch.zeros(processes, *weight.shape) for weight in weights]
    for tensor in weights + sums:
        tensor.share_memory_()  # type: ignore[no-untyped-call]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes) if processes > 1 else threading.Barrier(1)
    helpers = [
        context.Process(target=_help, args=(rank, barrier, work, weights, sums, channels_last), daemon=True)
        for rank in range(1, processes)
    ]
    for helper in helpers:
        helper.start()
    share = Share(work, 0, weights, sums, channels_last)
    clock = Clock()
    clock.start()
    for round_ in range(1, work.rounds + 1):
        barrier.wait(TIMEOUT)
        share.train(round_)
        barrier.wait(TIMEOUT)
        share.average()
        clock.lap()
    for helper in helpers:
        helper.join()
    return clock, weights


def main() -> None:
    """Do the work and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("work")
    parser.add_argument("report")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true")
    arguments = parser.parse_args()
    work = Work.load(arguments.work)
    clock, weights = run(work, arguments.processes, arguments.channels_last)
    model = network([weight.numpy() for weight in weights])
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    Report(clock.began, clock.seconds, central_loss(model, work), count(model), versions).save(
        arguments.report
    )


if __name__ == "__main__":
    main()
