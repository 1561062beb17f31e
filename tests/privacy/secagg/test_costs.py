"""The cost model against real rounds and published expansion factors."""

from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from typing import Any
from unittest.mock import patch

import pytest
from numpy.typing import NDArray

from fedsim.privacy.secagg import calibration, primitives, shamir
from fedsim.privacy.secagg.calibration import calibrate, seconds_of
from fedsim.privacy.secagg.costs import Costs, Operations, bonawitz_expansion, round_costs
from fedsim.privacy.secagg.encoding import Encoding
from fedsim.privacy.secagg.ring import Ring
from fedsim.privacy.secagg.spec import Stage
from tests.privacy.secagg.rounds import Round, policy_of, spec_of, vectors_of

KINDS = [
    (8, "semi-honest", "complete"),
    (8, "malicious-server", "complete"),
    (30, "semi-honest", "k-regular"),
    (40, "malicious-server", "k-regular"),
]


def prepared(clients: int, adversary: str, graph: str, lost: int = 0) -> Round:
    """Return a round in which some are lost with their uploads."""
    policy = policy_of(adversary=adversary, corrupt=0.04, dropout=0.15, graph=graph, dimension=100)
    vectors = vectors_of(policy, list(range(clients)))
    round_ = Round(policy, vectors, lost=dict.fromkeys(range(lost), Stage.UPLOAD))
    assert round_.spec.complete == (graph == "complete")
    return round_


@pytest.mark.parametrize(("clients", "adversary", "graph"), KINDS)
@pytest.mark.parametrize("lost", [0, 1])
def test_bytes_are_those_of_a_real_round(clients: int, adversary: str, graph: str, lost: int) -> None:
    round_ = prepared(clients, adversary, graph, lost)
    sizes, answer = defaultdict(list), round_.answer

    def counted(stage: Stage, client: int, request: bytes) -> bytes:
        reply = answer(stage, client, request)
        if client >= lost:
            sizes[stage].append((len(request), len(reply)))
        return reply

    with patch.object(round_, "answer", counted):
        round_.run()
    costs = round_costs(round_.spec, dropped=lost)
    assert list(costs.messages) == list(round_.spec.stages)
    for stage, message in costs.messages.items():
        down, up = (sum(column) / (clients - lost) for column in zip(*sizes[stage], strict=True))
        assert message.up == up, stage
        assert message.down == pytest.approx(down, rel=1e-12), stage


@pytest.mark.parametrize(("clients", "adversary", "graph"), KINDS)
def test_operations_are_those_of_a_real_round(clients: int, adversary: str, graph: str) -> None:
    round_ = prepared(clients, adversary, graph)
    counts: dict[str, float] = defaultdict(float)

    def counting(name: str, function: Callable[..., Any], weight: Callable[..., float] = lambda *_: 1) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += weight(*args)
            return function(*args, **kwargs)

        return call

    def elements(_: Ring, values: NDArray[Any], *__: Any) -> int:
        return len(values)

    watched: list[tuple[Any, str, str, Callable[..., float]]] = [
        (primitives.X25519PrivateKey, "from_private_bytes", "key_pairs", lambda *_: 1),
        (primitives.X25519PublicKey, "from_public_bytes", "agreements", lambda *_: 1),
        (primitives.Ed25519PrivateKey, "from_private_bytes", "signing_keys", lambda *_: 1),
        (primitives.Ed25519PublicKey, "from_public_bytes", "verifications", lambda *_: 1),
        (primitives.SigningKey, "sign", "signatures", lambda *_: 1),
        (primitives, "HKDF", "derivations", lambda *_: 1),
        (primitives, "AESGCM", "seals", lambda *_: 1),
        (shamir, "_uniform", "coefficients", lambda *_: 1),
        (Ring, "add_masks", "masked", lambda _, values, masks: len(values) * len(masks)),
        (Ring, "unpack", "unpacked", lambda *args: args[2]),
        (Ring, "pack", "packed", elements),
    ]
    with ExitStack() as stack:
        for owner, attribute, name, weight in watched:
            call = counting(name, getattr(owner, attribute), weight)
            stack.enter_context(patch.object(owner, attribute, call))
        round_.run()
    costs = round_costs(round_.spec, dropped=0)
    assert set(counts) == {name for *_, name, _ in watched}
    for name, count in counts.items():
        expected = clients * getattr(costs.client, name) + getattr(costs.server, name)
        assert count == pytest.approx(expected, rel=0.05), name  # what is done once a client may differ


def planned(
    clients: int, *, dropped: int = 0, adversary: str = "semi-honest", dimension: int = 1000
) -> Costs:
    policy = policy_of(adversary=adversary, corrupt=0.05, dropout=0.05, dimension=dimension, clients=range(0))
    return round_costs(spec_of(policy, clients), dropped=dropped)


def test_dropouts_cost_the_server_the_masks_they_had_in_common() -> None:
    # Complete graph: each of the lost had one with each survivor.
    length = planned(20).spec.encoding.length
    for lost in (0, 1, 5):
        server = planned(20, dropped=lost).server
        assert server.masked == length * ((20 - lost) + lost * (20 - lost))
        assert server.agreements == lost * (20 - lost) + 2 * 20  # and each public key was tried
    assert planned(1000, dropped=50).server.agreements == pytest.approx(50 * 30 * 950 / 999 + 2 * 1000)


def test_costs_grow_as_they_should() -> None:
    # On a k-regular graph a client's work grows with k only, but for the ring that it draws.
    small, large = planned(1000).client, planned(100_000).client
    assert large.masked / small.masked == pytest.approx(37 / 31)
    assert (small.places, large.places) == (1000, 100_000)
    complete, more = planned(10).client, planned(40).client
    assert more.multiplications / complete.multiplications == pytest.approx(40 * 26 / (10 * 6))
    assert planned(100, dimension=10**6).expansion < planned(100, dimension=10**4).expansion


def test_published_expansion_factors() -> None:
    # Bonawitz et al. 2017, section 1: 1.73x for 2^10 users and 2^20 numbers of 16 bits, 1.98x for 2^14 and 2^24.
    assert bonawitz_expansion(2**10, 2**20) == pytest.approx(1.73, abs=0.005)
    assert bonawitz_expansion(2**14, 2**24) == pytest.approx(1.98, abs=0.005)
    # And of its formula for 2^14 and 2^20.
    assert bonawitz_expansion(2**14, 2**20) == pytest.approx(3.62, abs=0.006)


def test_few_neighbours_expand_less_than_the_published_protocol() -> None:
    ours = planned(2**10, dimension=2**20).expansion
    assert 26 / 16 < ours < bonawitz_expansion(2**10, 2**20)


def test_seconds_are_counts_times_unit_costs() -> None:
    unit = Operations(agreements=0.5, masked=0.25)
    assert Operations(agreements=4, masked=8, digests=100).seconds(unit) == 4.0


def test_too_many_dropouts_are_refused() -> None:
    with pytest.raises(ValueError, match="dropped = 20: must be from 0 to 19"):
        planned(20, dropped=20)
    with pytest.raises(ValueError, match="dropped = -1"):
        planned(20, dropped=-1)


def test_calibration_times_every_operation() -> None:
    unit = calibrate(Encoding(2000, cohort=100))
    for field in fields(Operations):
        assert getattr(unit, field.name) > 0, field.name
    # Public-key operations take longer than hashes, hashes than elements, by orders of magnitude.
    assert unit.agreements > 3 * unit.digests > 30 * unit.masked


def test_a_call_takes_what_the_clock_says() -> None:
    now = [0.0]

    def call() -> None:
        now[0] += 0.25e-3

    assert seconds_of(call, lambda: now[0]) == pytest.approx(0.25e-3)
    assert calibration.LEAST_SECONDS > 0.25e-3


def test_the_middle_of_the_repeats_counts() -> None:
    now, durations = [0.0], iter([1.0, 9.0, 2.0, 4.0])  # the first one finds how often to repeat

    def call() -> None:
        now[0] += next(durations)

    assert seconds_of(call, lambda: now[0]) == 4.0
