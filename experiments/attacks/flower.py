"""Shared code of the attacks on Flower's SecAgg+: six clients, and opening an upload with known seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, RecordDict
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, RECORD_KEY_STATE, Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.compat.common import recorddict_compat as compat
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key
from numpy.typing import NDArray

from fedsim.experiments.benchmarks.flower_secagg import SETUP, UNMASK, Cohort, Outcome, Tamper, Update
from fedsim.streams import numpy_stream

FLOWER = "Flower 1.42's SecAgg+"
DIMENSION = 20
NODES = range(101, 107)
VICTIM = 103
MODEL = np.zeros(DIMENSION)
CLIPPING, LEVELS, MODULUS, MAX_WEIGHT = 8.0, 2**22, 2**32, 1000.0  # SecAggPlusWorkflow's defaults
TOLERANCE = 2e-3  # Flower weighs before it quantises: of weight 30 in 1,000 a step is 1.3e-4


def updates(clients: Iterable[int] = NODES, dimension: int = DIMENSION) -> dict[int, Update]:
    """Return an update for each client, uniform on [-1, 1], weighing 10, 20, 30, ..."""

    def update(client: int, weight: int) -> Update:
        return Update(numpy_stream(0, "attacked", client=client).uniform(-1, 1, dimension), weight)

    return {client: update(client, 10 + 10 * index) for index, client in enumerate(clients)}


def cohort(**settings: Any) -> Cohort:
    """Return six clients of Flower's."""
    return Cohort(updates(), **settings)


Fields = dict[str, Any]  # of Flower's protocol, which its `Key` names
Change = Callable[[int, Fields], Mapping[str, Any]]  # node and fields; returns their replacements


def at(**changes: Change) -> Tamper:
    """Return a tampering function that changes fields by stage."""

    def tamper(stage: str, node: int, content: RecordDict) -> None:
        if stage in changes:
            fields = content.config_records[RECORD_KEY_CONFIGS]
            fields.update(changes[stage](node, dict(fields)))

    return tamper


def model_record(model: NDArray[np.float64]) -> ArrayRecord:
    """Return a model as Flower's server sends it."""
    return compat.parameters_to_arrayrecord(ndarrays_to_parameters([model]), True)


def pair_key(private: bytes, public: bytes) -> bytes:
    """Return Flower's shared key of two key pairs (PEM)."""
    return generate_shared_key(bytes_to_private_key(private), bytes_to_public_key(public))


def mask_keys(outcome: Outcome, victim: int, private: bytes) -> dict[int, bytes]:
    """Return, by neighbour, the key of the mask that a victim shares with it, from the victim's private key."""
    public = {node: outcome.reply(SETUP, node)[Key.PUBLIC_KEY_1] for node in outcome.replies[SETUP]}
    return {node: pair_key(private, key) for node, key in public.items() if node != victim}


def handed_over(outcome: Outcome, owner: int) -> tuple[bytes, bytes]:
    """Return an owner's seed and private key from the shares in the replies at the last stage; empty without any.

    A reply first has a share of the seed of each client listed as alive, then one of the private key of each listed
    as dead.
    """
    seeds, keys = [], []
    for node in outcome.replies[UNMASK]:
        reply = outcome.reply(UNMASK, node)
        alive = len(outcome.request(UNMASK, node)[Key.ACTIVE_NODE_ID_LIST])
        pairs = list(zip(reply[Key.NODE_ID_LIST], reply[Key.SHARE_LIST], strict=True))
        seeds += [share for of, share in pairs[:alive] if of == owner]
        keys += [share for of, share in pairs[alive:] if of == owner]
    return combine_shares(seeds) if seeds else b"", combine_shares(keys) if keys else b""


def remembered(cohort: Cohort, node: int) -> Fields:
    """Return a (colluding) client's state of the round."""
    return dict(cohort.contexts[node].state.config_records[RECORD_KEY_STATE])


def opened(
    outcome: Outcome, victim: int, seed: bytes, keys: Mapping[int, bytes]
) -> tuple[float, NDArray[np.float64]]:
    """Unmask an upload; return its weight and update."""
    signed = [(seed, -1)] + [(key, -1 if victim > node else 1) for node, key in keys.items()]
    return plain(unmasked(outcome.masked(victim), signed))


def unmasked(masked: list[NDArray[np.int64]], signed: Iterable[tuple[bytes, int]]) -> list[NDArray[np.int64]]:
    """Add masks, each with its sign, to an upload."""
    shapes = [part.shape for part in masked]
    for seed, sign in signed:
        masks = pseudo_rand_gen(seed, MODULUS, shapes)
        masked = [part + sign * mask for part, mask in zip(masked, masks, strict=True)]
    return [part % MODULUS for part in masked]


def plain(parts: list[NDArray[np.int64]], clients: int = 1) -> tuple[float, NDArray[np.float64]]:
    """Return the weight and the update of one client, or of some together, from unmasked integers."""
    weight, vector = parts
    (scaled,) = dequantize([vector], CLIPPING, LEVELS)
    scaled -= (clients - 1) * CLIPPING
    return float(weight[0]) * MAX_WEIGHT / LEVELS, scaled * LEVELS / float(weight[0])
