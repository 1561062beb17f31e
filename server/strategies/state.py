"""A strategy's state between rounds, as a tree for the checkpoint.

Flower's strategies keep state in attributes, which the catalogue names. A user's own strategy implements `state_dict()`
and `load_state_dict(state)`, with nested dicts and lists of arrays, numbers and strings.
"""

from __future__ import annotations

from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from fedsim.arrays import arrays_in, record_of
from fedsim.catalogue import StrategyEntry
from fedsim.results.checkpoint import Tree

METHODS = ("state_dict", "load_state_dict")


def why_not_kept(strategy: Strategy, entry: StrategyEntry) -> str | None:
    """Return why a strategy's state can't be checkpointed, or None."""
    missing = [name for name in METHODS if not callable(getattr(strategy, name, None))]
    if entry.state is not None or not missing:
        return None
    return f"server.strategy = {entry.name!r} has no {' and no '.join(missing)}, so its state can't be kept"


def strategy_state(strategy: Strategy, entry: StrategyEntry) -> Tree:
    """Return a strategy's state.

    Args:
        strategy: One with a state that can be checkpointed (`why_not_kept`).
        entry: Its entry in the catalogue.
    """
    if entry.state is None:
        return strategy.state_dict()  # type: ignore[attr-defined]
    return {name: _tagged(getattr(strategy, name)) for name in entry.state}


def load_strategy_state(strategy: Strategy, entry: StrategyEntry, state: Tree) -> None:
    """Restore a newly built strategy, in place."""
    if entry.state is None:
        strategy.load_state_dict(state)  # type: ignore[attr-defined]
        return
    for name in entry.state:
        setattr(strategy, name, _untagged(state[name]))


def _tagged(value: Any) -> Tree:
    """Return an attribute as a tree, tagged as a record or as plain data."""
    return {"record": arrays_in(value)} if isinstance(value, ArrayRecord) else {"plain": value}


def _untagged(tree: Tree) -> Any:
    return record_of(tree["record"]) if "record" in tree else tree["plain"]
