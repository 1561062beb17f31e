"""Settings that server and clients derive independently from an experiment's `[privacy.secagg]`."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.experiment import Experiment
from fedsim.privacy.events import Noise
from fedsim.privacy.secagg.primitives import Entropy, SigningKey
from fedsim.privacy.secagg.settings import SecaggSettings
from fedsim.privacy.secagg.spec import Policy, make_policy
from fedsim.privacy.secagg.topology import Adversary
from fedsim.sections.privacy import metrics_of_sums
from fedsim.streams import numpy_stream

UNPROTECTED = "unprotected: the ideal functionality, in which the server sees every client's vector"
PROTECTED = "real: the server learns the sum of the updates, and who is in it"
NOT_CLAIMED = (
    "anything on nodes that take their code or their settings from the server, as Flower's do unless told otherwise",
    "integrity against the server, which may add what it likes to a sum, or say a wrong one",
    "anything against a global model that was crafted to make one client's update stand out of the sum",
    "that the sum of a small cohort says little of one client, or several sums with some of the same clients: for "
    "that there is differential privacy",
)


def policy_of(experiment: Experiment, dimension: int, records: NDArray[np.int64]) -> Policy | None:
    """Return the policy that all parties of an experiment agree on; None without secure aggregation.

    Args:
        experiment: The experiment.
        dimension: Numbers in an update.
        records: Number of each client's training examples, `(clients,)`; the maximum is the largest weight, unless the
            experiment sets one.
    """
    section = experiment.privacy.secagg
    if section is None:
        return None
    uniform = experiment.server.weighting == "uniform"
    malicious = Adversary(section.adversary) is Adversary.MALICIOUS_SERVER
    return make_policy(
        section,
        dimension=dimension,
        max_weight=1 if uniform else section.max_weight or int(records.max()),
        metrics=metrics_of_sums(experiment.privacy),
        registry=Registry(experiment.seed, len(records)) if malicious else {},
    )


# --- randomness that makes runs reproducible ---------------------------------------------------------------


def graph_entropy(
    experiment: Experiment, round_: int, client: int | None = None, *, secret: bool = False
) -> Entropy:
    """Return the source of a party's part in the choice of the graph; `client` is None for the server.

    The graph decides which clients are lost together, which changes results. So with seeded noise it follows from the
    seed, unless it must be `secret`, among parties on several machines. Keys and masks never follow from the seed.
    """
    if secret or Noise(experiment.privacy.noise) is Noise.SYSTEM:
        return os.urandom
    purpose = "secagg-graph" if client is None else "secagg-graph-part"
    return numpy_stream(experiment.seed, purpose, round_=round_, client=client or 0).bytes


def identity_of(seed: int, client: int) -> bytes:
    """Return a client's private identity key (32 bytes), from a named stream.

    In simulations it replaces a key that a client makes and registers without the server. The seed reveals it.
    """
    return numpy_stream(seed, "secagg-identity", client=client).bytes(32)


class Registry(Mapping[int, bytes]):
    """Public identity keys of a simulation's clients, computed on first use."""

    def __init__(self, seed: int, clients: int) -> None:
        self._seed = seed
        self._clients = range(clients)

    def __getitem__(self, client: int) -> bytes:
        if client not in self._clients:
            raise KeyError(client)
        return _public_identity(self._seed, client)

    def __iter__(self) -> Iterator[int]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)


@functools.lru_cache(maxsize=1 << 16)
def _public_identity(seed: int, client: int) -> bytes:
    return SigningKey(identity_of(seed, client)).public


# --- the manifest -------------------------------------------------------------------------------------------


def described(policy: Policy, section: SecaggSettings, cohort: int) -> dict[str, Any]:
    """Return the manifest's entry for a cohort size; if the cohort is too small, the entry says why."""
    entry: dict[str, Any] = {
        "mode": PROTECTED if policy.mode == "real" else UNPROTECTED,
        "adversary": section.adversary,
        "assumed-corrupt": section.corrupt,
        "assumed-dropout": section.dropout,
        "cohort": cohort,
    }
    try:
        shape = policy.topology(cohort)
        spec = policy.spec(run="", round_=1, session="", clients=cohort, task="")
    except ValueError as error:
        return entry | {"unavailable": str(error)}
    return entry | {
        "graph": "complete" if spec.complete else "k-regular",
        "neighbours": spec.degree,
        "threshold": spec.threshold,
        "least-clients": spec.least,
        "honest-minimum": shape.honest_minimum,
        "bits": spec.encoding.ring.bits,
        "clip": spec.encoding.clip,
        "max-weight": spec.encoding.max_weight,
        "claim": shape.claim if policy.mode == "real" else "none",
        "not-claimed": list(NOT_CLAIMED),
    }
