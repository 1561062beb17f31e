"""Flower strategies that take the whole cohort, and their state between rounds, as a tree for the checkpoint.

Flower's strategies keep state in attributes, which the catalogue names. A user's own strategy implements `state_dict()`
and `load_state_dict(state)`, with nested dicts and lists of arrays, numbers and strings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from fedsim.arrays import arrays_in, record_of
from fedsim.catalogue import StrategyEntry
from fedsim.errors import RunFailed
from fedsim.experiment import Experiment
from fedsim.making import made
from fedsim.options import keywords
from fedsim.results.checkpoint import Tree

# fedsim draws the cohort, and the strategy sees only its clients: it takes all of them, and never waits for more.
TAKE_ALL = {
    "fraction_train": 1.0,
    "fraction_evaluate": 1.0,
    "min_train_nodes": 0,
    "min_evaluate_nodes": 0,
    "min_available_nodes": 0,
}
METHODS = ("state_dict", "load_state_dict")


@contextmanager
def calling(strategy: str, round_: int) -> Iterator[None]:
    """Turn what a strategy raises inside the block into `RunFailed`, in one line with its name."""
    try:
        yield
    except Exception as error:  # it is someone else's code
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise RunFailed(f"round {round_}: server.strategy = {strategy!r}: {said}") from error


def build_strategy(experiment: Experiment) -> Strategy:
    """Build the experiment's strategy.

    A user's own `"module:callable"` is called with `[server.options]` as keyword arguments.

    Raises:
        Refused: The callable can't be loaded, doesn't take the options, or returns no strategy.
    """
    server = experiment.server
    entry, arguments = server.strategy_entry, keywords(server.options)
    if entry.needs_initial_loss:
        arguments |= {
            "client_learning_rate": experiment.client.learning_rate,
            "train_loss_key": "initial-loss",
        }
    where = f"server.strategy = {server.strategy!r}"
    strategy: Strategy = made(
        lambda: entry.load()(**arguments), Strategy, where, "a flwr.serverapp.strategy.Strategy"
    )
    for name, value in TAKE_ALL.items():
        if hasattr(strategy, name):
            setattr(strategy, name, value)
    return strategy


def why_not_kept(strategy: Strategy, entry: StrategyEntry) -> str | None:
    """Return why a strategy's state can't be checkpointed, or None."""
    missing = [name for name in METHODS if not callable(getattr(strategy, name, None))]
    if entry.state is not None or not missing:
        return None
    return f"server.strategy = {entry.name!r} has no {' and no '.join(missing)}, so its state can't be kept"


def strategy_state(strategy: Strategy, entry: StrategyEntry) -> Tree:
    """Return the state of a strategy that can be checkpointed (`why_not_kept`)."""
    if entry.state is None:
        return strategy.state_dict()  # type: ignore[attr-defined]
    return {name: _tagged(getattr(strategy, name)) for name in entry.state}


def load_strategy_state(strategy: Strategy, entry: StrategyEntry, state: Tree) -> None:
    """Restore a newly built strategy, in place."""
    if entry.state is None:
        strategy.load_state_dict(state)  # type: ignore[attr-defined]
        return
    for name in entry.state:
        tree = state[name]
        setattr(strategy, name, record_of(tree["record"]) if "record" in tree else tree["plain"])


def _tagged(value: Any) -> Tree:
    """Return an attribute as a tree, tagged as a record or as plain data."""
    return {"record": arrays_in(value)} if isinstance(value, ArrayRecord) else {"plain": value}
