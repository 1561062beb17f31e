"""Builds Flower strategies that take the whole cohort."""

from __future__ import annotations

from typing import Any

from flwr.serverapp.strategy import Strategy

from fedsim.errors import Refused
from fedsim.experiment import Experiment

# fedsim draws the cohort, and the strategy sees only its clients: it takes all of them, and never waits for more.
_TAKE_ALL = {
    "fraction_train": 1.0,
    "fraction_evaluate": 1.0,
    "min_train_nodes": 0,
    "min_evaluate_nodes": 0,
    "min_available_nodes": 0,
}


def build_strategy(experiment: Experiment) -> Strategy:
    """Build the experiment's strategy.

    A user's own `"module:callable"` is called with `[server.options]` as keyword arguments.

    Raises:
        Refused: The callable can't be loaded, doesn't take the options, or returns no strategy.
    """
    server = experiment.server
    entry = server.strategy_entry
    arguments: dict[str, Any] = {key.replace("-", "_"): value for key, value in server.options.items()}
    if entry.needs_initial_loss:
        arguments |= {
            "client_learning_rate": experiment.client.learning_rate,
            "train_loss_key": "initial-loss",
        }
    make = entry.load()
    try:
        strategy = make(**arguments)
    except (TypeError, ValueError) as error:
        raise Refused(f"server.strategy = {server.strategy!r}: {error}") from None
    if not isinstance(strategy, Strategy):
        raise Refused(
            f"server.strategy = {server.strategy!r}: returned {type(strategy).__name__}; "
            "a flwr.serverapp.strategy.Strategy is needed"
        )
    for name, value in _TAKE_ALL.items():
        if hasattr(strategy, name):
            setattr(strategy, name, value)
    return strategy
