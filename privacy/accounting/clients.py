"""Epsilon over many clients with rates and step counts of their own: the largest, and quantiles."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

from fedsim.privacy.accounting.adversaries import Adversary
from fedsim.privacy.accounting.pld import Step, step_of
from fedsim.privacy.accounting.steps import Epsilon, LocalSteps


def worst(clients: Iterable[LocalSteps], adversary: Adversary) -> tuple[LocalSteps, Epsilon]:
    """Return the client with the largest epsilon of its records (the better bound of each), and that epsilon.

    Branch and bound. Epsilon grows with rate and steps and falls with noise: one step at rate q is a step at a larger
    rate q' that happens with probability q / q', which costs no more (joint convexity), and further steps only add.
    So one evaluation at a group's largest rate and most steps bounds all its clients. The group with the largest
    bound, in the order of rates, is halved until one client's own epsilon is at least the bound of all others. The
    result equals that of evaluating every client.

    Args:
        clients: What each releases in one participation; one or more, else `ValueError`. Repeated ones cost nothing.
        adversary: Adversary that epsilon holds against.

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
    """Return an upper bound on every client's epsilon: that of a step at least as bad as theirs in every field.

    A truncated step is a mixture of two distributions; that of a full batch is the worse unless its rate is lower.
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
    """Return quantiles of epsilon over the clients: bounds up to some 0.1 % above the best.

    One client is evaluated for each quantile. Clients are sorted by rate * sqrt(steps) / noise, the order of their
    epsilons in the limit of many steps (Bu et al. 2020, "Deep learning with Gaussian differential privacy"); for few
    steps adjacent clients may be swapped. Take the largest from `worst`, which is exact.

    Args:
        clients: What each releases in one participation; one or more.
        adversary: Adversary that epsilon holds against.
        quantiles: Between 0 (the smallest) and 1 (the largest).

    Returns:
        Epsilons, the smallest first.

    Raises:
        ValueError: There are no clients, or a quantile is out of its range.
    """

    def strength(client: LocalSteps) -> float:
        noise = client.noise_multiplier
        return client.rate * math.sqrt(client.steps) / noise if noise > 0 else math.inf

    order = sorted(clients, key=strength)
    if not order:
        raise ValueError("clients: there must be one or more")
    for quantile in quantiles:
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile = {quantile}: must be between 0 and 1")
    ranks = [round(quantile * (len(order) - 1)) for quantile in quantiles]
    return sorted(_bound([order[rank]], adversary) for rank in ranks)
