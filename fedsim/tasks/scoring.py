"""Evaluates a model on a set of examples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from fedsim.streams import global_states
from fedsim.tasks.task import Score, Task
from fedsim.threads import single_threaded

if TYPE_CHECKING:
    from fedsim.data.federated import Examples

BATCH = 500  # examples at a time; affects the result's last bits, so not a setting


def score(model: nn.Module, task: Task, examples: Examples, threads: int = 1) -> Score:
    """Evaluate a model on all examples.

    The batches are fixed, each is computed by one thread, and their sums are added in order: the number of
    threads, each with a batch at a time, leaves every bit of the result as it is. The model is in evaluation mode
    meanwhile.

    Raises:
        ValueError: There are no examples.
    """
    if len(examples) == 0:
        raise ValueError("no examples to evaluate on")

    def one(batch: Examples) -> list[float]:
        with single_threaded(), torch.no_grad():  # what a model keeps in inference mode can't be trained with
            inputs, targets = task.tensors(batch)
            sums: list[float] = task.measure(model(inputs), targets).tolist()
        return sums

    with evaluation_mode(model):
        parallel = threads > 1 and len(examples) > BATCH
        if parallel:
            before = global_states()
            one(examples.part(slice(1)))
            parallel = global_states() == before  # a model that draws would draw in the order of threads
        if parallel:
            with ThreadPoolExecutor(threads) as pool:
                parts = list(pool.map(one, _batches(examples)))
        else:
            parts = [one(batch) for batch in _batches(examples)]
    return task.score([math.fsum(column) for column in zip(*parts, strict=True)])


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block; each module then has the mode that it had before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(modes[0][1])  # some models override it
        for module, training in modes:
            module.training = training


def _batches(examples: Examples) -> Iterator[Examples]:
    for start in range(0, len(examples), BATCH):
        yield examples.part(slice(start, start + BATCH))
