"""Partitions of the examples over clients: flwr-datasets' partitioners, behind one function each.

Examples are first shuffled by the experiment's seed, so that partitioners that cut in order cut at random; each
partitioner has its own seed. Every example goes to exactly one client. Equal shares are cut here, since importing
flwr-datasets takes seconds.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.catalogue import PARTITIONS
from fedsim.data.arrays import values_in
from fedsim.data.raw import Raw
from fedsim.errors import Refused
from fedsim.sections import DataSection

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Deal:
    """Input of a partition."""

    clients: int  # 0 if their number follows from the users
    examples: int  # their number; they are numbered from 0 in random order
    seed: int  # of the partitioner
    columns: Mapping[str, NDArray[Any]]  # `label` and `user`, if present, `(examples,)` each

    def by(self, name: str, *arguments: Any, **options: Any) -> list[Indices]:
        """Return the numbers of each client's examples by the partitioner of flwr-datasets with this name."""
        from flwr_datasets import partitioner as partitioners

        from fedsim.data.rows import Rows

        partitioner = getattr(partitioners, name)(*arguments, **options)
        partitioner.dataset = Rows.of(self.columns, np.arange(self.examples))
        return [np.array(partitioner.load_partition(i)) for i in range(partitioner.num_partitions)]


def partition(
    raw: Raw, section: DataSection, generator: np.random.Generator
) -> tuple[list[Indices], tuple[str, ...]]:
    """Deal the training examples of a source to clients; the generator shuffles them and seeds the partitioner.

    Returns:
        The indices of each client's examples, in random order, and the clients' names if they are users.

    Raises:
        Refused: The partition is impossible, leaves a client empty, or leaves examples over.
    """
    if section.source_entry.by_clients:
        return [np.zeros(0, np.int64)] * (section.clients or 0), ()
    entry = section.partition_entry
    where = f"data.partition = {section.partition!r}"
    if entry.by_label and raw.y_train is None:
        raise Refused(
            f"{where}: goes by label, and next-character text has none; allowed: iid, size, natural, ..."
        )
    if entry.by_label and values_in(raw.y_train):
        by_other = ", ".join(name for name, other in PARTITIONS.items() if not other.by_label)
        raise Refused(f"{where}: goes by label, and the targets are real values; allowed: {by_other}")
    if entry.by_user and raw.user is None:
        raise Refused(f"{where}: the examples have no users; data.client must name their column")
    examples = len(raw.x_train)
    if section.clients is not None and section.clients > examples:
        raise Refused(f"data.clients = {section.clients}: must be at most the {examples} training examples")
    chosen = generator.permutation(examples)
    if raw.user is not None and section.clients is not None and section.partition == "natural":
        chosen = _of_some_users(raw.user, section.clients, chosen, generator, where)
    columns = {"label": None if values_in(raw.y_train) else raw.y_train, "user": raw.user}
    deal = Deal(
        section.clients or 0,
        len(chosen),
        int(generator.integers(2**31)),
        {name: column[chosen] for name, column in columns.items() if column is not None},
    )
    dealt = [chosen[own] for own in _deal(deal, section, where)]
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


def _deal(deal: Deal, section: DataSection, where: str) -> list[Indices]:
    """Return the numbers of each client's examples, covering all examples."""
    entry = section.partition_entry
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # partitioners' warnings are checked below; progress bars are hidden
        try:
            dealt: list[Indices] = entry.load()(section.pick(entry), deal)
        except (ValueError, KeyError, IndexError, ArithmeticError) as error:
            reason = " ".join(str(error).split())
            raise Refused(
                f"{where} can't deal {deal.examples} examples to {section.clients} clients: {reason}"
            ) from None
    counts = np.bincount(np.concatenate(dealt), minlength=deal.examples) if dealt else np.zeros(deal.examples)
    if counts.max() > 1:
        raise Refused(f"{where}: gives {int((counts > 1).sum())} examples to more than one client")
    left = np.flatnonzero(counts == 0)
    if len(left) and section.partition != "shard":
        raise Refused(
            f"{where}: leaves {len(left)} of {deal.examples} examples to no client; all must be dealt"
        )
    if len(left):  # shards are of equal size; the remainder is dealt one by one
        dealt = [np.concatenate([own, left[i :: len(dealt)]]) for i, own in enumerate(dealt)]
    return dealt


def _of_some_users(
    user: Indices, clients: int, order: Indices, generator: np.random.Generator, where: str
) -> Indices:
    """Return the examples, in the given order, of randomly drawn users."""
    users = np.unique(user)
    if clients > len(users):
        raise Refused(
            f"data.clients = {clients}: {where} has {len(users)} users; at most that many are allowed"
        )
    return order[np.isin(user[order], generator.choice(users, size=clients, replace=False))]


def iid(options: Any, deal: Deal) -> list[Indices]:
    """Equal shares."""
    return np.array_split(np.arange(deal.examples), deal.clients)


def dirichlet(options: Any, deal: Deal) -> list[Indices]:
    """Each label dealt by a Dirichlet draw over the clients (Yurochkin et al. 2019)."""
    return deal.by(
        "DirichletPartitioner",
        deal.clients,
        "label",
        float(options.alpha),
        min_partition_size=options.min_size,
        self_balancing=options.self_balancing,
        seed=deal.seed,
    )


def inner_dirichlet(options: Any, deal: Deal) -> list[Indices]:
    """Sizes given, each client's mixture of labels a Dirichlet draw (Acar et al. 2021)."""
    sizes = options.sizes or [len(part) for part in iid(options, deal)]
    return deal.by("InnerDirichletPartitioner", sizes, "label", float(options.alpha), seed=deal.seed)


def pathological(options: Any, deal: Deal) -> list[Indices]:
    """A few labels to each client."""
    labels, mode = options.classes_per_client, options.assignment
    return deal.by(
        "PathologicalPartitioner", deal.clients, "label", labels, class_assignment_mode=mode, seed=deal.seed
    )


def shard(options: Any, deal: Deal) -> list[Indices]:
    """Sorted by label and cut into shards (McMahan et al. 2017)."""
    shards = options.shards_per_client
    if shards * deal.clients > deal.examples:
        most = deal.examples // deal.clients
        raise ValueError(
            f"data.shards-per-client = {shards}: must be at most {most}, or there are empty shards"
        )
    return deal.by("ShardPartitioner", deal.clients, "label", num_shards_per_partition=shards, seed=deal.seed)


def size(options: Any, deal: Deal) -> list[Indices]:
    """Sizes given."""
    return deal.by("SizePartitioner", options.sizes)


def _growing(partitioner: str) -> Callable[[Any, Deal], list[Indices]]:
    return lambda options, deal: deal.by(partitioner, deal.clients)


linear = _growing("LinearPartitioner")  # sizes 1, 2, 3, ... in proportion
square = _growing("SquarePartitioner")  # sizes 1, 4, 9, ... in proportion
exponential = _growing("ExponentialPartitioner")  # sizes e, e^2, e^3, ... in proportion


def natural(options: Any, deal: Deal) -> list[Indices]:
    """One user, one client."""
    return deal.by("NaturalIdPartitioner", "user")


def grouped_natural(options: Any, deal: Deal) -> list[Indices]:
    """Groups of users."""
    return deal.by("GroupedNaturalIdPartitioner", "user", options.group_size, sort_unique_ids=True)
