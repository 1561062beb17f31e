"""Optimizers by name, and their options."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.catalogue import Entry, find, table
from fedsim.options import Fraction, FreeOptions, Options, Positive


@dataclass(frozen=True, kw_only=True)
class OptimizerEntry(Entry):
    """An optimizer: `reference` is a function `(parameters, lr, **arguments) -> fedsim.optimizers.Optimizer`.

    The arguments are the options, and the keys of `[client]` in `beside`.
    """

    draws: bool = False  # random numbers while it steps


class AdamOptions(Options):
    """Options of `adam` and `adamw`."""

    beta_1: Fraction = 0.9
    """Decay of the first moment."""
    beta_2: Fraction = 0.999
    """Decay of the second moment."""
    eps: Positive = 1e-8
    """Added to the root of the second moment."""


OPTIMIZERS = table(
    OptimizerEntry(
        name="sgd",
        reference="fedsim.optimizers.sgd:Sgd",
        summary="SGD, with `client.momentum`; `client.weight-decay` is an L2 penalty",
        beside=frozenset({"momentum", "weight-decay"}),
    ),
    OptimizerEntry(
        name="adam",
        reference="fedsim.optimizers.adam:Adam",
        summary="Adam (Kingma and Ba 2015); `client.weight-decay` is an L2 penalty",
        options=AdamOptions,
        beside=frozenset({"weight-decay"}),
    ),
    OptimizerEntry(
        name="adamw",
        reference="fedsim.optimizers.adamw:AdamW",
        summary="Adam with `client.weight-decay` outside the moments (Loshchilov and Hutter 2019)",
        options=AdamOptions,
        beside=frozenset({"weight-decay"}),
    ),
)


def find_optimizer(name: str) -> OptimizerEntry:
    """Return the entry of an optimizer; `"module:callable"` is the user's own; raises `Refused` where there is none."""
    if ":" in name:
        return OptimizerEntry(name=name, reference=name, summary="", options=FreeOptions, draws=True)
    return find(OPTIMIZERS, name, ', or "module:callable"')
