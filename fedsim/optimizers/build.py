"""Builds optimizers by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedsim.errors import Refused
from fedsim.making import made
from fedsim.optimizers.protocol import Optimizer
from fedsim.options import FreeOptions
from fedsim.sections import ClientSection

if TYPE_CHECKING:
    from torch import nn


def build_optimizer(client: ClientSection, parameters: Sequence[nn.Parameter], rate: float) -> Optimizer:
    """Build the optimizer of one local training, with fresh state.

    A user's own `"module:callable"` is called as `make(parameters, lr=rate, **options)`, with
    `[client.optimizer-options]` as keyword arguments.

    Raises:
        Refused: The callable is missing, doesn't take the options, or returns no optimizer.
    """
    entry = client.optimizer_entry
    optimizer: Optimizer = made(
        lambda: entry.load()(list(parameters), lr=rate, **client.optimizer_arguments),
        Optimizer,
        f"client.optimizer = {entry.name!r}",
        "an object with zero_grad() and step()",
    )
    return optimizer


def check_optimizer(client: ClientSection, parameters: Sequence[nn.Parameter]) -> None:
    """Refuse an optimizer that can't train these parameters, before a run.

    A user's own optimizer takes a step with copies of the parameters, and must change these in place.
    """
    entry = client.optimizer_entry
    if not issubclass(entry.options, FreeOptions):
        build_optimizer(client, parameters, client.learning_rate)
        return
    import torch  # not needed for reading experiments

    copies = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    places = [copy.data_ptr() for copy in copies]
    optimizer = build_optimizer(client, copies, client.learning_rate)
    optimizer.zero_grad()
    for copy in copies:
        copy.grad = torch.ones_like(copy)
    with torch.random.fork_rng(devices=[]):  # leaves the caller's generator unchanged
        try:
            optimizer.step()
        except (TypeError, ValueError, RuntimeError) as error:
            raise Refused(f"client.optimizer = {entry.name!r}: step(): {error}") from error
    if [copy.data_ptr() for copy in copies] != places:
        raise Refused(
            f"client.optimizer = {entry.name!r}: step() puts parameters elsewhere in memory; "
            "it must change them in place, as p.add_() does"
        )
