"""Who gets which examples: flwr-datasets' partitioners, behind one function each.

The examples are shuffled by the experiment's seed first, so partitioners that cut in order cut at random,
and each partitioner draws from a seed of its own. Every example goes to exactly one client.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data.raw import Raw
from fedsim.errors import Refused
from fedsim.sections import DataSection

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Deal:
    """What a partitioner is made for: `clients` is 0 where the users decide."""

    clients: int
    examples: int
    seed: int


def partition(
    raw: Raw, section: DataSection, generator: np.random.Generator
) -> tuple[list[Indices], tuple[str, ...]]:
    """Deal the training examples of a source to clients.

    Args:
        raw: The source's examples.
        section: Names the partition, its options and the number of clients.
        generator: Shuffles the examples and seeds the partitioner.

    Returns:
        The indices of each client's examples, in random order, and the clients' names where they are users.

    Raises:
        Refused: The partition is impossible, leaves a client empty, or leaves examples over.
    """
    entry = section.partition_entry
    where = f"data.partition = {section.partition!r}"
    if entry.by_label and raw.y_train is None:
        raise Refused(
            f"{where}: goes by label, and next-character text has none; allowed: iid, size, natural, ..."
        )
    if entry.by_user and raw.user is None:
        raise Refused(f"{where}: the examples have no users; data.client must name their column")
    examples = len(raw.x_train)
    if section.clients is not None and section.clients > examples:
        raise Refused(f"data.clients = {section.clients}: must be at most the {examples} training examples")
    chosen = generator.permutation(examples)
    if raw.user is not None and section.clients is not None and section.partition == "natural":
        chosen = _of_some_users(raw.user, section.clients, chosen, generator, where)
    deal = Deal(section.clients or 0, len(chosen), int(generator.integers(2**31)))
    dealt = _deal(raw, chosen, lambda: entry.load()(section.pick(entry), deal), section, where)
    for client, indices in enumerate(dealt):
        if len(indices) == 0:
            raise Refused(
                f"{where}: leaves client {client} of {len(dealt)} empty; every client needs an example"
            )
        generator.shuffle(indices)
    if raw.user is None or not entry.by_user:
        return dealt, ()
    user = raw.user
    return dealt, tuple("+".join(raw.users[u] for u in np.unique(user[indices])) for indices in dealt)


def _deal(
    raw: Raw, chosen: Indices, make: Callable[[], Partitioner], section: DataSection, where: str
) -> list[Indices]:
    from datasets import Dataset

    columns: dict[str, Sequence[Any] | NDArray[Any]] = {"index": np.arange(len(chosen))}
    if raw.y_train is not None:
        columns["label"] = raw.y_train[chosen]
    if raw.user is not None:
        columns["user"] = raw.user[chosen]
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter(
            "ignore"
        )  # what a partitioner warns of is checked below; progress bars go unseen
        try:
            partitioner = make()
            partitioner.dataset = Dataset.from_dict(columns)
            clients = partitioner.num_partitions
            dealt = [
                np.asarray(partitioner.load_partition(i)["index"], dtype=np.int64) for i in range(clients)
            ]
        except (ValueError, KeyError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise Refused(
                f"{where} can't deal {len(chosen)} examples to {section.clients} clients: {reason}"
            ) from None
    counts = (
        np.bincount(np.concatenate(dealt), minlength=len(chosen)) if dealt else np.zeros(len(chosen), int)
    )
    if counts.max() > 1:
        raise Refused(f"{where}: gives {int((counts > 1).sum())} examples to more than one client")
    left = np.flatnonzero(counts == 0)
    if (
        len(left) and section.partition == "shard"
    ):  # shards are of equal size; the remainder is dealt one by one
        dealt = [np.concatenate([own, left[i :: len(dealt)]]) for i, own in enumerate(dealt)]
    elif len(left):
        raise Refused(
            f"{where}: leaves {len(left)} of {len(chosen)} examples to no client; all must be dealt"
        )
    return [chosen[own] for own in dealt]


def _of_some_users(
    user: Indices, clients: int, order: Indices, generator: np.random.Generator, where: str
) -> Indices:
    """Return the examples, in the order given, of that many users drawn at random."""
    users = np.unique(user)
    if clients > len(users):
        raise Refused(
            f"data.clients = {clients}: {where} has {len(users)} users; at most that many are allowed"
        )
    return order[np.isin(user[order], generator.choice(users, size=clients, replace=False))]


def iid(options: Any, deal: Deal) -> Partitioner:
    """Equal shares."""
    from flwr_datasets.partitioner import IidPartitioner

    return IidPartitioner(deal.clients)


def dirichlet(options: Any, deal: Deal) -> Partitioner:
    """Each label dealt by a Dirichlet draw over the clients (Yurochkin et al. 2019)."""
    from flwr_datasets.partitioner import DirichletPartitioner

    return DirichletPartitioner(
        deal.clients,
        "label",
        float(options.alpha),
        min_partition_size=options.min_size,
        self_balancing=options.self_balancing,
        seed=deal.seed,
    )


def inner_dirichlet(options: Any, deal: Deal) -> Partitioner:
    """Sizes given, each client's mixture of labels a Dirichlet draw (Acar et al. 2021)."""
    from flwr_datasets.partitioner import InnerDirichletPartitioner

    sizes = options.sizes or [len(part) for part in np.array_split(np.arange(deal.examples), deal.clients)]
    return InnerDirichletPartitioner(sizes, "label", float(options.alpha), seed=deal.seed)


def pathological(options: Any, deal: Deal) -> Partitioner:
    """A few labels to each client."""
    from flwr_datasets.partitioner import PathologicalPartitioner

    return PathologicalPartitioner(
        deal.clients,
        "label",
        options.classes_per_client,
        class_assignment_mode=options.assignment,
        seed=deal.seed,
    )


def shard(options: Any, deal: Deal) -> Partitioner:
    """Sorted by label and cut into shards (McMahan et al. 2017)."""
    from flwr_datasets.partitioner import ShardPartitioner

    return ShardPartitioner(
        deal.clients, "label", num_shards_per_partition=options.shards_per_client, seed=deal.seed
    )


def size(options: Any, deal: Deal) -> Partitioner:
    """Sizes given."""
    from flwr_datasets.partitioner import SizePartitioner

    return SizePartitioner(options.sizes)


def linear(options: Any, deal: Deal) -> Partitioner:
    """Sizes 1, 2, 3, ... in proportion."""
    from flwr_datasets.partitioner import LinearPartitioner

    return LinearPartitioner(deal.clients)


def square(options: Any, deal: Deal) -> Partitioner:
    """Sizes 1, 4, 9, ... in proportion."""
    from flwr_datasets.partitioner import SquarePartitioner

    return SquarePartitioner(deal.clients)


def exponential(options: Any, deal: Deal) -> Partitioner:
    """Sizes e, e^2, e^3, ... in proportion."""
    from flwr_datasets.partitioner import ExponentialPartitioner

    return ExponentialPartitioner(deal.clients)


def natural(options: Any, deal: Deal) -> Partitioner:
    """One user, one client."""
    from flwr_datasets.partitioner import NaturalIdPartitioner

    return NaturalIdPartitioner("user")


def grouped_natural(options: Any, deal: Deal) -> Partitioner:
    """Groups of users."""
    from flwr_datasets.partitioner import GroupedNaturalIdPartitioner

    return GroupedNaturalIdPartitioner("user", options.group_size, sort_unique_ids=True)
