"""Draws a round's clients by a public rule (`Cohorts`) and secret random coins."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray


def draw(
    sampling: Literal["fixed", "poisson", "truncated-poisson"],
    cohort: int,
    clients: int,
    generator: np.random.Generator,
    *,
    max_cohort: int | None = None,
    rate: float | None = None,
) -> list[int]:
    """Draw a round's clients, in ascending order.

    Args:
        sampling: `fixed`: `cohort` different clients, each set equally likely. `poisson`: each client independently
            with probability `cohort / clients`; the result may be empty. `truncated-poisson`: the same, cut to a
            uniformly random subset of `max_cohort`.
        cohort: From 1 to `clients`; ignored if `rate` is declared.
        clients: The population; clients are numbered from 0.
        generator: The round's stream.
        max_cohort: `cohort` or more; with `truncated-poisson`, and only with it.
        rate: Declared probability of drawing each client, above 0 and at most 1, independent of the population; for
            `poisson` only. None: `cohort / clients`.

    Raises:
        ValueError: A value is out of its range.
    """
    if rate is not None:
        if sampling != "poisson" or not 0 < rate <= 1:
            raise ValueError(f"a declared rate of {rate} with {sampling} sampling")
        return _ascending(np.flatnonzero(generator.random(clients) < rate))
    if not 1 <= cohort <= clients:
        raise ValueError(f"cohort {cohort} of {clients} clients")
    if (max_cohort is None) != (sampling != "truncated-poisson"):
        raise ValueError(f"max cohort {max_cohort} with {sampling} sampling")
    if sampling == "fixed":
        return _ascending(generator.choice(clients, size=cohort, replace=False))
    drawn = np.flatnonzero(generator.random(clients) < cohort / clients)
    if max_cohort is None:
        return _ascending(drawn)
    if max_cohort < cohort:
        raise ValueError(f"max cohort {max_cohort} of {cohort} expected clients")
    return _ascending(_random_subset(drawn, max_cohort, generator))


def group_of(identity: str, groups: int) -> int:
    """Return a client's group, from 0 to `groups - 1`: a BLAKE2b hash of its identity alone.

    So a client keeps its group across restarts and when other clients join or leave.

    Args:
        identity: The client's permanent identity.
        groups: 1 or more.

    >>> [group_of(str(client), 3) for client in range(8)]
    [1, 2, 2, 1, 1, 2, 1, 1]
    """
    digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % groups


def draw_separated(
    round_: int, separation: int, cohort: int, groups: Sequence[int], generator: np.random.Generator
) -> list[int]:
    """Draw a round's clients, in ascending order; each is in at most one of `separation` consecutive rounds.

    The `separation` groups take turns: group g has the rounds t with t = g modulo `separation`. Each of its clients
    is drawn independently with probability `separation * cohort / clients`, so that on average over rounds `cohort`
    take part (amplified banded matrix factorisation: Choquette-Choo et al. 2023, arXiv 2306.08153). The result may be
    empty. Groups, being hashes, differ in size, and so do cohorts; the probability, which the account uses, does not.

    Args:
        round_: From 1.
        separation: b, 1 or more.
        cohort: Expected, 1 or more; at most the clients / `separation`.
        groups: The group of each client (`group_of`), in the clients' order.
        generator: The round's stream.

    Raises:
        ValueError: A value is out of its range.
    """
    rate = separation * cohort / max(len(groups), 1)
    if separation < 1 or cohort < 1 or rate > 1:
        raise ValueError(f"cohort {cohort} in {separation} groups of {len(groups)} clients")
    turn = np.asarray(groups) == round_ % separation
    return _ascending(np.flatnonzero(turn & (generator.random(len(groups)) < rate)))


def secret_generator() -> np.random.Generator:
    """Return a generator for secret coins, keyed by the operating system; its draws can't be repeated."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(os.urandom(16))))


def _random_subset(drawn: NDArray[np.int64], most: int, generator: np.random.Generator) -> NDArray[np.int64]:
    return drawn if len(drawn) <= most else generator.choice(drawn, size=most, replace=False)


def _ascending(drawn: NDArray[np.int64]) -> list[int]:
    return sorted(int(client) for client in drawn)
