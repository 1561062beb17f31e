"""What an experiment's `[privacy.secagg]` means to its server and its clients, who each work it out by themselves."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.mechanisms import metrics_of_sums
from fedsim.privacy.events import Noise
from fedsim.privacy.secagg.policy import make_policy
from fedsim.privacy.secagg.primitives import Entropy, SigningKey
from fedsim.privacy.secagg.settings import SecaggSettings
from fedsim.privacy.secagg.spec import Policy
from fedsim.privacy.secagg.topology import Adversary
from fedsim.privacy_sections import PrivacySection
from fedsim.sections import ServerSection
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


class SecaggTables(Protocol):
    """What is needed of an experiment."""

    @property
    def seed(self) -> int:
        """All seeded draws follow from it."""

    @property
    def server(self) -> ServerSection:
        """`[server]`."""

    @property
    def privacy(self) -> PrivacySection:
        """`[privacy]`."""


def policy_of(experiment: SecaggTables, dimension: int, records: NDArray[np.int64]) -> Policy | None:
    """Return what the parties of an experiment agree on beforehand; None where it has no secure aggregation.

    Args:
        experiment: The experiment.
        dimension: Numbers in an update.
        records: Training examples of each client, `(clients,)`: the most are the largest weight, unless the
            experiment says one.
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
    experiment: SecaggTables, round_: int, client: int | None = None, *, secret: bool = False
) -> Entropy:
    """Return what a party draws its part in the choice of the graph from; the server is no client.

    The graph decides who is lost together with whom, so where noise is seeded it follows from the seed, like all
    that changes a result; unless it is to be `secret`, among parties on several machines. Keys and masks never do.
    """
    if secret or Noise(experiment.privacy.noise) is Noise.SYSTEM:
        return os.urandom
    purpose = "secagg-graph" if client is None else "secagg-graph-part"
    return numpy_stream(experiment.seed, purpose, round_=round_, client=client or 0).bytes


def identity_of(seed: int, client: int) -> bytes:
    """Return a client's private identity key (32 bytes), of a named stream.

    It is the simulation's stand-in for a key that a client makes itself and registers without the server's help:
    whoever has the seed has it.
    """
    return numpy_stream(seed, "secagg-identity", client=client).bytes(32)


class Registry(Mapping[int, bytes]):
    """The public identity keys of a simulation's clients; each is worked out when it is first asked for."""

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


# --- what a manifest says -----------------------------------------------------------------------------------


def described(policy: Policy, section: SecaggSettings, cohort: int) -> dict[str, Any]:
    """Return what a manifest says of the protection, for a cohort of so many; of none, why there is none."""
    said: dict[str, Any] = {
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
        return said | {"unavailable": str(error)}
    return said | {
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
