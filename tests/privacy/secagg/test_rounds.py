"""Complete rounds: the exact sum of the uploads, or none, as in theory."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from fedsim.privacy.secagg.encoding import Encoding
from fedsim.privacy.secagg.graph import joint_seed, neighbours, part_of
from fedsim.privacy.secagg.primitives import KEY
from fedsim.privacy.secagg.spec import Stage, TooFew
from tests.privacy.secagg.rounds import Round, policy_of, seeded, spec_of, sum_of, vectors_of

ADVERSARIES = ("semi-honest", "malicious-server")
SLOW = [HealthCheck.too_slow]


def outcome(round_: Round) -> tuple[list[int], list[int]] | str:
    """Return sum and summands, or why there is none."""
    try:
        total = round_.run()
    except TooFew as error:
        return str(error)
    encoding = round_.spec.encoding
    return (total & (2**encoding.ring.bits - 1)).tolist(), sorted(round_.server.uploaded)


def in_theory(round_: Round) -> list[int] | None:
    """Return the clients in the sum by Bonawitz et al. and Bell et al., computed by sets; None without a sum."""
    spec, stages = round_.spec, list(Stage)

    def there(clients: set[int], stage: Stage) -> set[int]:
        return {
            c for c in clients if stages.index(round_.lost.get(c, Stage.UNMASK)) > stages.index(stage)
        } | {c for c in clients if c not in round_.lost}

    roster = there(set(round_.vectors), Stage.ADVERTISE)
    seed = hashlib.sha256(b"round graph").digest()
    if Stage.REVEAL in spec.stages:
        left = there(roster, Stage.REVEAL)
        attempt = 1 if left == roster else 2
        parts = {c: part_of(seeded(f"round graph {c}")(KEY), attempt) for c in left}
        seed, roster = joint_seed(parts), left
    if len(roster) < spec.least:
        return None
    order = sorted(roster)
    rows = neighbours(seed, len(order), spec.degree)
    around = {c: {order[i] for i in row} | {c} for c, row in zip(order, rows, strict=True)}
    shared = there(roster, Stage.SHARE)
    uploaded = {c for c in there(shared, Stage.UPLOAD) if len(around[c] & shared) >= spec.threshold}
    last = {c for c in uploaded if len(around[c] & uploaded) >= spec.threshold}
    if Stage.CONFIRM in spec.stages:
        confirmed = there(last, Stage.CONFIRM)
        if len(confirmed) < spec.quorum:
            return None
        last = confirmed
    answered = there(last, Stage.UNMASK)
    to_find = uploaded | {c for c in shared - uploaded if around[c] & uploaded}
    found = all(len(around[c] & answered) >= spec.threshold for c in to_find)
    return sorted(uploaded) if found and len(uploaded) >= spec.least else None


@st.composite
def rounds(draw: st.DrawFn, graph: str) -> tuple[dict, dict]:
    adversary = draw(st.sampled_from(ADVERSARIES))
    clients = draw(st.integers(3, 9) if graph == "complete" else st.integers(30, 34))
    corrupt = draw(st.sampled_from([0.0, 0.1]))
    dropout = draw(st.sampled_from([0.0, 0.1, 0.2]))
    if graph == "k-regular":
        corrupt, dropout = 0.04, draw(st.sampled_from([0.04, 0.1]))
    policy = policy_of(
        adversary=adversary,
        corrupt=corrupt,
        dropout=dropout,
        graph=graph,
        dimension=draw(st.integers(1, 40)),
        input_bits=draw(st.integers(2, 30)),
    )
    try:
        spec_of(policy, clients)
    except ValueError:
        reject()  # no threshold for so few and such fractions: `test_topology` says when
    members = draw(st.permutations(range(200)))[:clients]
    stages = [s for s in Stage if s is not Stage.REVEAL or graph == "k-regular"]
    most = clients // 3 if graph == "complete" else 5
    lost = draw(st.dictionaries(st.sampled_from(members), st.sampled_from(stages), max_size=most))
    return {"policy": policy, "vectors": vectors_of(policy, sorted(members))}, lost


def check(round_: tuple[dict, dict]) -> None:
    arguments, lost = round_
    real = Round(**arguments, lost=lost, stored=True)
    if Stage.CONFIRM not in real.spec.stages:
        lost = {c: Stage.UNMASK if s is Stage.CONFIRM else s for c, s in lost.items()}
    if Stage.REVEAL not in real.spec.stages:
        lost = {c: Stage.SHARE if s is Stage.REVEAL else s for c, s in lost.items()}
    real = Round(**arguments, lost=lost, stored=True)
    summands = in_theory(real)
    came = outcome(real)
    policy = replace(arguments["policy"], mode="ideal")
    ideal = outcome(Round(policy=policy, vectors=arguments["vectors"], lost=lost, stored=True))
    assert came == ideal
    if summands is None:
        assert isinstance(came, str)
    else:
        assert came == (sum_of(policy, arguments["vectors"], summands), summands)
    assert not real.refused


@settings(max_examples=60, suppress_health_check=SLOW)
@given(rounds("complete"))
def test_complete_graph(round_):
    check(round_)


@settings(max_examples=10, suppress_health_check=SLOW)
@given(rounds("k-regular"))
def test_sparse_graph(round_):
    check(round_)


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("stage", list(Stage))
def test_a_client_lost_at_any_stage(adversary, stage):
    policy = policy_of(adversary=adversary, dropout=0.2, corrupt=0.1)
    clients = [3, 4, 7, 9, 11, 20, 21, 22, 30, 31]
    vectors = vectors_of(policy, clients)
    total, summands = outcome(Round(policy, vectors, lost={7: stage, 30: stage}))
    stays = list(Stage).index(stage) > list(Stage).index(Stage.UPLOAD)
    assert summands == (clients if stays else [c for c in clients if c not in (7, 30)])
    assert total == sum_of(policy, vectors, summands)


def test_below_the_threshold_nothing_is_learnt():
    policy = policy_of(dropout=0.2)
    vectors = vectors_of(policy, list(range(10)))
    spec = spec_of(policy, 10)
    late = dict.fromkeys(range(10 - spec.threshold + 1), Stage.UNMASK)
    round_ = Round(policy, vectors, lost=late)
    with pytest.raises(TooFew, match=rf"{spec.threshold - 1} shares .* {spec.threshold} are needed"):
        round_.run()
    with pytest.raises(ValueError, match="there is no sum"):
        round_.server.total()
    del late[0]
    assert outcome(Round(policy, vectors, lost=late))[1] == list(range(10))


def test_a_whole_transcript_is_as_it_was():
    """All bytes of a round follow from keys and vectors: who changes one changes the protocol's version."""
    found = {}
    for adversary in ADVERSARIES:
        policy = policy_of(adversary=adversary, dropout=0.2)
        round_ = Round(policy, vectors_of(policy, [0, 1, 2, 5, 8]), lost={5: Stage.UPLOAD})
        total = round_.run()
        log = b"".join(stage.encode() + bytes([client]) + reply for stage, client, reply in round_.seen)
        found[adversary] = (
            hashlib.sha256(log).hexdigest()[:16],
            hashlib.sha256(round_.spec.encoding.ring.pack(total)).hexdigest()[:16],
        )
    assert found == FROZEN


FROZEN = {
    "malicious-server": ("0f48347cf555ac42", "533ffbe06912f642"),
    "semi-honest": ("335d93f3c0c12114", "533ffbe06912f642"),
}


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_the_real_round_decodes_to_the_mean(adversary):
    policy = policy_of(adversary=adversary, dropout=0.2)
    encoding = Encoding(1000, cohort=6, max_weight=50, metrics=("train-loss",))
    policy = replace(policy, encoding=encoding)
    draws = np.random.default_rng(0)
    updates = {c: draws.normal(0, 0.1, 1000).astype(np.float32) for c in range(6)}
    weights = {c: int(draws.integers(1, 51)) for c in range(6)}
    vectors = {c: encoding.encode(updates[c], weights[c], {"train-loss": c / 7}, draws) for c in range(6)}
    round_ = Round(policy, vectors, lost={2: Stage.UPLOAD})
    left = [0, 1, 3, 4, 5]
    decoded = round_.spec.encoding.decode(round_.run(), len(round_.server.uploaded))
    weight = sum(weights[c] for c in left)
    mean = sum(weights[c] * updates[c].astype(float) for c in left) / weight
    assert decoded.weight == weight
    assert decoded.metrics["train-loss"] == pytest.approx(
        sum(weights[c] * c / 7 for c in left) / weight, abs=1e-6
    )
    assert np.abs(decoded.update - mean).max() < 5 * encoding.clip * 50 / (2**15 - 1) / weight * 1.01
