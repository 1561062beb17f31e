"""Many clients, each with a rate and a number of steps of its own: whose records have it worst, and how it spreads."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

from fedsim.privacy.accounting.adversaries import Adversary
from fedsim.privacy.accounting.pld import Step, step_of
from fedsim.privacy.accounting.steps import Epsilon, LocalSteps


def worst(clients: Iterable[LocalSteps], adversary: Adversary) -> tuple[LocalSteps, Epsilon]:
    """Return the client whose records have the largest epsilon (the better bound of each), and that epsilon.

    All clients' laws needn't be evaluated. Epsilon grows with rate and steps and falls with noise: at rate q the
    one-step law is that at a rate q' > q, happening with probability q / q', and a law that happens only sometimes
    is no worse (joint convexity); further steps only add. So one evaluation at the largest rate and the most steps
    of a whole group of clients bounds them all. Clients in the order of their rates are halved where the bound is
    largest, until a client's own epsilon is at least the bound of all others: the result is that of evaluating all.

    Args:
        clients: What each releases in one participation; one or more, and repeated ones cost nothing.
        adversary: Against whom.

    Raises:
        ValueError: There are no clients.

    >>> from fedsim.privacy.accounting import KnownCohort
    >>> clients = [LocalSteps(noise_multiplier=1, rate=10 / n, steps=n // 10) for n in range(20, 200)]
    >>> client, epsilon = worst(clients, KnownCohort(participations=5, delta=1e-5))
    >>> client.rate, client.steps, round(epsilon.pld, 2)
    (0.5, 2, 10.46)
    """
    order = sorted(set(clients), key=lambda client: (client.rate, client.steps), reverse=True)
    if not order:
        raise ValueError("clients: there must be one or more")
    found: tuple[LocalSteps, Epsilon] | None = None
    groups = [(-math.inf, 0, len(order))]
    while groups and (found is None or -groups[0][0] > found[1].best):
        _, start, stop = heapq.heappop(groups)
        if stop - start == 1:
            epsilon = adversary.epsilon(order[start])
            if found is None or epsilon.best > found[1].best:
                found = (order[start], epsilon)
            continue
        middle = (start + stop) // 2
        for half in ((start, middle), (middle, stop)):
            heapq.heappush(groups, (-_bound(order[slice(*half)], adversary), *half))
    if found is None:
        raise RuntimeError("unreachable: the first group was divided down to a client")
    return found


def _bound(clients: Sequence[LocalSteps], adversary: Adversary) -> float:
    """Return what no client's epsilon is above: that of a step that is worse than each of theirs in everything.

    A cut batch is a mixture of two laws, by truncation; the one of a cut batch is the worse if its rate isn't lower.
    """
    steps = [step_of(client) for client in clients]
    if min(step.noise_multiplier for step in steps) == 0:
        return math.inf
    rate = max(step.rate for step in steps)
    truncation = max(step.truncation for step in steps)
    corner = Step(
        noise_multiplier=min(step.noise_multiplier for step in steps),
        rate=rate,
        truncation=truncation,
        truncated_rate=max(rate, *(step.truncated_rate for step in steps)) if truncation > 0 else 0.0,
    )
    return adversary.bound(steps[0] if len(steps) == 1 else corner, max(client.steps for client in clients))


def spread(
    clients: Iterable[LocalSteps],
    adversary: Adversary,
    quantiles: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
) -> list[float]:
    """Return quantiles, over the clients, of epsilon: bounds that are up to some 0.1 % above the best.

    One client is evaluated for each quantile. They are put in the order of rate * sqrt(steps) / noise, in which
    epsilon stands in the limit of many steps (Bu et al. 2020, "Deep learning with Gaussian differential privacy");
    for few steps neighbours may be exchanged. Take the largest from `worst`, which is exact.

    Args:
        clients: What each releases in one participation; one or more, one for each client.
        adversary: Against whom.
        quantiles: Between 0 (the smallest) and 1 (the largest); each means the client at this part of the order.

    Returns:
        Epsilons, the smallest first.

    Raises:
        ValueError: There are no clients, or a quantile is out of its range.
    """
    order = sorted(clients, key=_strength)
    if not order:
        raise ValueError("clients: there must be one or more")
    for quantile in quantiles:
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile = {quantile}: must be between 0 and 1")
    ranks = [round(quantile * (len(order) - 1)) for quantile in quantiles]
    return sorted(_bound([order[rank]], adversary) for rank in ranks)


def _strength(client: LocalSteps) -> float:
    if client.noise_multiplier == 0:
        return math.inf
    return client.rate * math.sqrt(client.steps) / client.noise_multiplier
