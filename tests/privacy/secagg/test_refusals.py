"""Refusals of a client to a malicious server, and of the server to malicious clients."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.privacy.secagg.client import ClientSession
from fedsim.privacy.secagg.primitives import KEY, SIGNATURE
from fedsim.privacy.secagg.roster import KEYS
from fedsim.privacy.secagg.shamir import SEALED, SHARE
from fedsim.privacy.secagg.spec import RoundSpec, Stage, TooFew
from fedsim.privacy.secagg.wire import ID, INDEX, bitmap, members_of
from tests.privacy.secagg.rounds import TASK, Round, identity, policy_of, spec_of, sum_of, vectors_of

CLIENTS = [2, 3, 5, 7, 11, 13]
ME = 5
BOTH = ("semi-honest", "malicious-server")


def policy_for(adversary: str, **kwargs):
    return policy_of(adversary=adversary, corrupt=0.1, dropout=0.2, **kwargs)


def started(adversary: str, until: Stage, **kwargs) -> Round:
    """Return a round that has been played up to a stage."""
    policy = policy_for(adversary)
    round_ = Round(policy, vectors_of(policy, CLIENTS), **kwargs)
    for stage in round_.stages():
        if stage is until:
            return round_
    raise AssertionError(until)


def request(round_: Round, client: int = ME) -> bytes:
    return round_.server.requests()[client]


def refuses(round_: Round, stage: Stage, altered: bytes, reason: str) -> None:
    """Check that a client refuses a request, closes, wipes its secrets, and answers nothing more."""
    session = round_.sessions[ME]
    secrets = session._state.secrets
    vector = round_.vectors[ME].copy() if stage is Stage.UPLOAD else None
    with pytest.raises(ValueError, match=reason):
        session.answer(stage, altered, vector=vector, task=TASK)
    assert session.closed
    assert not any((*secrets.channel, *secrets.masks, *secrets.own, *secrets.signing))
    assert not any(any(share) for share in secrets.own_shares.values())
    with pytest.raises(ValueError, match="the session is closed"):
        session.answer(stage, request(round_), vector=vector, task=TASK)


# --- the specification --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"threshold": 2}, r"threshold = 2: allowed: 4"),
        ({"degree": 3}, r"degree = 3: allowed: 5"),
        ({"least": 2}, r"least = 2: allowed: "),
        ({"mode": "ideal"}, "mode = ideal: allowed: real"),
        ({"adversary": "malicious-server"}, "adversary = malicious-server: allowed: semi-honest"),
        ({"version": 2}, "version = 2: allowed: 1, this client's"),
        ({"clients": 2}, "a cohort of 2: must be from 3"),
        ({"encoding": {"clip": 9.0}}, r"clip = 9\.0: allowed: 1\.0"),
        ({"encoding": {"input_bits": 8}}, "input_bits = 8: allowed: 16"),
        ({"encoding": {"dimension": 4}}, "dimension = 4: allowed: 5"),
        ({"encoding": {"max_weight": 100}}, "max_weight = 100: allowed: 1"),
        ({"encoding": {"cohort": 5}}, "cohort = 5: allowed: 6"),
        ({"encoding": {"metrics": ["loss"]}}, "metrics = "),
        ({"extra": 1}, "lacks or has too much"),
        ({"adversary": "saint"}, "'saint' is not a valid"),
    ],
)
def test_a_round_that_is_not_as_it_should_be(change, reason):
    policy = policy_for("semi-honest")
    tree = json.loads(spec_of(policy, len(CLIENTS)).dumps())
    for key, value in change.items():
        tree[key] = tree[key] | value if isinstance(value, dict) else value
    text = json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ValueError, match=reason):
        ClientSession.begin(text, policy, ME)


@pytest.mark.parametrize("text", [b"", b"[1", b"[]", b"{}", b'{"version":1}', b"5", b"\xff"])
def test_what_is_no_specification(text):
    with pytest.raises(ValueError, match=r"specification|version"):
        ClientSession.begin(text, policy_for("semi-honest"), ME)


def test_a_specification_in_another_form():
    text = json.dumps(json.loads(spec_of(policy_for("semi-honest"), 6).dumps())).encode()
    with pytest.raises(ValueError, match="not in its one form"):
        ClientSession.begin(text, policy_for("semi-honest"), ME)


@pytest.mark.parametrize("key", [None, b"\7" * 32])
def test_an_identity_that_is_not_registered(key):
    policy = policy_for("malicious-server")
    with pytest.raises(ValueError, match="client 5 is not registered"):
        ClientSession.begin(spec_of(policy, 6).dumps(), policy, ME, identity=key)


# --- stages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adversary", BOTH)
@pytest.mark.parametrize("wrong", [Stage.ADVERTISE, Stage.REVEAL, Stage.UPLOAD, Stage.CONFIRM, Stage.UNMASK])
def test_a_stage_that_is_skipped_or_repeated(adversary, wrong):
    round_ = started(adversary, Stage.SHARE)
    refuses(round_, wrong, request(round_), f"stage '{wrong}': allowed: 'share'")


@pytest.mark.parametrize("adversary", BOTH)
def test_a_second_upload_and_a_second_unmasking(adversary):
    round_ = started(adversary, Stage.UPLOAD)
    asked = request(round_)
    round_.play()
    refuses(round_, Stage.UPLOAD, asked, "stage 'upload': allowed: ")
    round_ = started(adversary, Stage.UNMASK)
    asked, session = request(round_), round_.sessions[ME]
    session.answer(Stage.UNMASK, asked)
    assert session.closed
    with pytest.raises(ValueError, match="the session is closed"):
        session.answer(Stage.UNMASK, asked)


# --- the roster -----------------------------------------------------------------------------------------------

ENTRY = {"semi-honest": ID + KEYS, "malicious-server": ID + KEYS + SIGNATURE}


def entries_of(asked: bytes, adversary: str) -> list[bytes]:
    size = ENTRY[adversary]
    return [asked[at : at + size] for at in range(INDEX, len(asked), size)]


def roster(entries: list[bytes]) -> bytes:
    return len(entries).to_bytes(INDEX, "big") + b"".join(entries)


@pytest.mark.parametrize("adversary", BOTH)
@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda entries: entries[:2] + entries[3:], "the roster lacks this client's own keys"),
        (lambda entries: [*entries[:2], entries[2][:40] + b"\1" + entries[2][41:], *entries[3:]], "own keys"),
        (lambda entries: [*entries, entries[-1]], "7 clients: allowed: |repeated or out of order"),
        (lambda entries: [entries[1], entries[0], *entries[2:]], "repeated or out of order"),
        (lambda entries: entries[:2], "a roster of 2 clients: allowed: "),
        (lambda entries: [entries[0][:ID] + entries[1][ID:], *entries[1:]], "same public key|not signed"),
        (lambda entries: [*entries[:-1], entries[-1][:-1]], "cut off"),
        (lambda entries: [*entries[:-1], entries[-1] + b"\0"], "1 bytes too many"),
    ],
)
def test_a_roster_that_is_not_as_it_should_be(adversary, alter, reason):
    round_ = started(adversary, Stage.SHARE)
    refuses(round_, Stage.SHARE, roster(alter(entries_of(request(round_), adversary))), reason)


@pytest.mark.parametrize("point", [bytes(KEY), b"\1" + bytes(KEY - 1)])
def test_a_public_key_that_gives_no_secret(point):
    round_ = started("semi-honest", Stage.SHARE)
    entries = entries_of(request(round_), "semi-honest")
    entries[0] = entries[0][:ID] + point + entries[0][ID + KEY :]
    refuses(round_, Stage.SHARE, roster(entries), "a public key is invalid")


def test_keys_that_the_server_has_put_in_anothers_place():
    """Against a malicious server only: in semi-honest mode this is one of the attacks that succeed."""
    forged = started("malicious-server", Stage.SHARE, seed="the server's own")
    round_ = started("malicious-server", Stage.SHARE)
    entries, others = (entries_of(request(r), "malicious-server") for r in (round_, forged))
    for entry in (others[0][:-SIGNATURE] + entries[0][-SIGNATURE:], others[0][:-1] + b"\0"):
        altered = roster([entry, *entries[1:]])
        refuses(round_, Stage.SHARE, altered, "client 2's keys are not signed by its registered identity")
        round_ = started("malicious-server", Stage.SHARE)


def test_keys_of_another_round_signed_by_the_right_client():
    old = Round(policy_for("malicious-server"), vectors_of(policy_for("malicious-server"), CLIENTS), round_=2)
    old.play()
    round_ = started("malicious-server", Stage.SHARE)
    entries = entries_of(request(round_), "malicious-server")
    entries[0] = entries_of(request(old), "malicious-server")[0]
    refuses(round_, Stage.SHARE, roster(entries), "client 2's keys are not signed")


# --- shares ---------------------------------------------------------------------------------------------------


def sealed_of(asked: bytes) -> list[bytes]:
    size = INDEX + SEALED
    return [asked[at : at + size] for at in range(0, len(asked), size)]


@pytest.mark.parametrize("adversary", BOTH)
@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda sealed: sealed[:2], "3 clients around here have shared: allowed: 4"),
        (lambda sealed: [*sealed, sealed[-1]], "repeated or out of order"),
        (lambda sealed: [sealed[1], sealed[0], *sealed[2:]], "repeated or out of order"),
        (lambda sealed: [sealed[1][:INDEX] + sealed[0][INDEX:], *sealed[1:]], "a ciphertext was altered"),
        (
            lambda sealed: [sealed[0][:-1] + bytes([sealed[0][-1] ^ 1]), *sealed[1:]],
            "a ciphertext was altered",
        ),
        (lambda sealed: [*sealed[:-1], sealed[-1][:-1]], "cut off"),
        (lambda sealed: [*sealed, b"\0"], "cut off"),
        (lambda sealed: [(9).to_bytes(INDEX, "big") + sealed[0][INDEX:]], "place 9, which is no neighbour"),
        (lambda sealed: [(2).to_bytes(INDEX, "big") + sealed[0][INDEX:]], "place 2, which is no neighbour"),
    ],
)
def test_shares_that_are_not_as_they_should_be(adversary, alter, reason):
    round_ = started(adversary, Stage.UPLOAD)
    refuses(round_, Stage.UPLOAD, b"".join(alter(sealed_of(request(round_)))), reason)


@pytest.mark.parametrize("adversary", BOTH)
def test_shares_that_are_reflected_or_of_another_session(adversary):
    round_ = started(adversary, Stage.UPLOAD)
    mine = next(reply for stage, client, reply in round_.seen if stage is Stage.SHARE and client == ME)
    reflected = (0).to_bytes(INDEX, "big") + mine[:SEALED]  # what this client sent to the one at place 0
    refuses(round_, Stage.UPLOAD, reflected + request(round_)[INDEX + SEALED :], "a ciphertext was altered")
    other = started(adversary, Stage.UPLOAD, round_=2)
    refuses(started(adversary, Stage.UPLOAD), Stage.UPLOAD, request(other), "a ciphertext was altered")


@pytest.mark.parametrize("adversary", BOTH)
def test_another_model_than_the_others_train_on(adversary):
    round_ = started(adversary, Stage.UPLOAD)
    with pytest.raises(ValueError, match="task = beef: allowed: "):
        round_.sessions[ME].answer(Stage.UPLOAD, request(round_), vector=round_.vectors[ME], task="beef")
    assert round_.sessions[ME].closed


@pytest.mark.parametrize("vector", [None, np.zeros(3, np.uint32), np.zeros(99, np.uint64)])
def test_a_vector_of_another_encoding(vector):
    round_ = started("semi-honest", Stage.UPLOAD)
    with pytest.raises(ValueError, match="the vector to upload is not of the round's encoding"):
        round_.sessions[ME].answer(Stage.UPLOAD, request(round_), vector=vector, task=TASK)


# --- who has uploaded -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alive", "reason"),
    [
        (bitmap([0, 1, 3, 4, 5], 6), "the list of uploads lacks this client"),
        (bitmap([0, 1, 2], 6), "3 clients are in the sum: allowed: 4"),
        (bitmap([0, 1, 2, 3, 4], 16), "1 bytes too many|does not fit|has not signed|cut off"),
        (bytes([0b11111111]), "does not fit a roster of 6"),
        (b"", "cut off|does not fit"),
    ],
)
@pytest.mark.parametrize("adversary", BOTH)
def test_a_list_of_the_living_that_can_not_be(adversary, alive, reason):
    stage = Stage.CONFIRM if adversary == "malicious-server" else Stage.UNMASK
    refuses(started(adversary, stage), stage, alive, reason)


def test_a_client_without_shares_cannot_upload():
    round_ = started("semi-honest", Stage.UNMASK, lost={2: Stage.SHARE})
    refuses(
        round_, Stage.UNMASK, bitmap(range(6), 6), "client 2 is on the list of uploads, but has never shared"
    )


def test_another_list_than_was_confirmed():
    round_ = started("malicious-server", Stage.UNMASK)
    asked = request(round_)
    refuses(
        round_,
        Stage.UNMASK,
        bitmap([0, 1, 2, 3, 4], 6) + asked[1:],
        "not the one that this client has confirmed",
    )


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda signed: signed[:2], "3 clients have signed .* allowed: 4"),
        (lambda signed: [*signed[:3], signed[3], signed[3]], "repeated or out of order"),
        (lambda signed: [signed[0][:INDEX] + signed[1][INDEX:], *signed[1:]], "place 0 has not signed"),
        (lambda signed: [(9).to_bytes(INDEX, "big") + signed[0][INDEX:]], "place 9 has not signed"),
        (lambda signed: [*signed, b"\0"], "cut off"),
    ],
)
def test_too_few_or_wrong_confirmations(alter, reason):
    round_ = started("malicious-server", Stage.UNMASK)
    asked, size = request(round_), INDEX + SIGNATURE
    signed = [asked[at : at + size] for at in range(1, len(asked), size)]
    refuses(round_, Stage.UNMASK, asked[:1] + b"".join(alter(signed)), reason)


def test_both_secrets_of_a_client_can_not_be_asked_for():
    """The request has one bit for each client, whether it is alive; the reply has one share for each neighbour."""
    round_ = started("semi-honest", Stage.UNMASK)
    session, secrets = round_.sessions[ME], round_.sessions[ME]._state.secrets
    kept = {c: (bytes(secrets.masks_shares[c]), bytes(secrets.own_shares[c])) for c in secrets.own_shares}
    own = bytes(secrets.own_share)
    alive = members_of(request(round_), 6) - {0}
    body = session.answer(Stage.UNMASK, bitmap(alive, 6))[:-SIGNATURE]
    shares = [body[at : at + SHARE] for at in range(0, len(body), SHARE)]
    assert shares == [kept[2][0], *(kept[c][1] for c in (3, 7, 11, 13)), own]


# --- what the server refuses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [Stage.ADVERTISE, Stage.SHARE, Stage.UPLOAD, Stage.CONFIRM, Stage.UNMASK])
def test_a_reply_that_was_not_asked_for_or_comes_twice(stage):
    round_ = started("malicious-server", stage)
    reply = round_.answer(stage, ME, request(round_))
    round_.server.receive(ME, reply)
    for client in (ME, 99):
        with pytest.raises(ValueError, match=f"client {client} was not asked, or has answered already"):
            round_.server.receive(client, reply)


@pytest.mark.parametrize("stage", [Stage.SHARE, Stage.UPLOAD, Stage.UNMASK])
def test_anothers_reply(stage):
    round_ = started("semi-honest", stage)
    reply = round_.answer(stage, 7, request(round_, 7))
    with pytest.raises(ValueError, match="its signature does not match"):
        round_.server.receive(ME, reply)
    assert ME in round_.server.lost


def test_the_server_finds_out_wrong_shares_and_has_no_sum():
    """A client that lies in what it gives to unmask: the round fails, nothing is mis-summed."""
    round_ = started("semi-honest", Stage.UNMASK, lost={2: Stage.UPLOAD})
    secrets = round_.sessions[ME]._state.secrets
    secrets.own_shares[3][:] = bytes(SHARE)
    with pytest.raises(TooFew, match=r"client 3's own mask are wrong|client 3: shares give no secret"):
        round_.run()
    with pytest.raises(ValueError, match="there is no sum"):
        round_.server.total()
    round_ = started("semi-honest", Stage.UNMASK, lost={2: Stage.UPLOAD})
    round_.sessions[ME]._state.secrets.masks_shares[2][-1] ^= 1
    with pytest.raises(TooFew, match=r"lost client 2's key are wrong|client 2: shares give no secret"):
        round_.run()


def test_an_unregistered_client_is_no_member():
    policy = policy_for("malicious-server")
    known = {**policy.registry, ME: identity(999)}
    round_ = Round(policy, vectors_of(policy, CLIENTS))
    round_.server._registry = known
    round_.play()
    assert round_.server.roster == [c for c in CLIENTS if c != ME]
    assert "registered identity" in round_.refused[ME]


@pytest.mark.parametrize("clients", [[1, 1, 2, 3, 4, 5], [1, 2, 3], [-1, 2, 3, 4, 5, 6]])
def test_a_cohort_that_is_not_the_rounds(clients):
    policy = policy_for("semi-honest")
    with pytest.raises(ValueError, match="allowed: 6 different numbers"):
        Round(policy, vectors_of(policy, CLIENTS)).server.__class__(spec_of(policy, 6), clients)


# --- on the way ---------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(
    adversary=st.sampled_from(BOTH),
    stage=st.sampled_from(list(Stage)),
    client=st.sampled_from(CLIENTS),
    up=st.booleans(),
    where=st.floats(0, 1, exclude_max=True),
)
def test_a_bit_that_is_changed_on_the_way_is_never_mis_summed(adversary, stage, client, up, where):
    flipped = []

    def flip(at: Stage, to: int, message: bytes) -> bytes:
        if (at, to) != (stage, client) or not message:
            return message
        bit = int(where * 8 * len(message))
        flipped.append(bit)
        return message[: bit // 8] + bytes([message[bit // 8] ^ 1 << bit % 8]) + message[bit // 8 + 1 :]

    policy = policy_for(adversary)
    vectors = vectors_of(policy, CLIENTS)
    round_ = Round(policy, vectors, **{"up" if up else "down": flip})
    total = round_.run()
    if flipped:
        assert client in round_.refused
    mask = 2**round_.spec.encoding.ring.bits - 1
    assert (total & mask).tolist() == sum_of(policy, vectors, round_.server.uploaded)
    assert (client in round_.server.uploaded) == (not flipped or stage in (Stage.CONFIRM, Stage.UNMASK))


def test_two_versions_in_one_cohort():
    """A client of another version refuses; the others go on without it."""
    policy = policy_for("semi-honest")

    def other_version(stage: Stage, client: int, message: bytes) -> bytes:
        if stage is Stage.ADVERTISE and client == ME:
            return message.replace(b'"version":1', b'"version":2')
        return message

    round_ = Round(policy, vectors_of(policy, CLIENTS), down=other_version)
    round_.run()
    assert round_.refused == {ME: "version = 2: allowed: 1, this client's"}
    assert ME not in round_.server.uploaded


def test_a_specification_is_read_as_it_was_written():
    spec = spec_of(replace(policy_for("malicious-server"), mode="ideal"), 6)
    assert RoundSpec.loads(spec.dumps()) == spec


def test_confirmations_of_the_neighbours_alone_are_no_quorum():
    policy = policy_of(adversary="malicious-server", corrupt=0.04, dropout=0.1, graph="k-regular")
    round_ = Round(policy, vectors_of(policy, list(range(60))))
    assert not round_.spec.complete
    for stage in round_.stages():
        if stage is Stage.UNMASK:
            break
    asked, size = round_.server.requests()[0], INDEX + SIGNATURE
    alive = -(-60 // 8)
    signed = [asked[at : at + size] for at in range(alive, len(asked), size)]
    assert len(signed) == round_.spec.quorum == 32  # (60 + 3) // 2 + 1
    assert len(signed[:-2]) > round_.spec.threshold
    with pytest.raises(ValueError, match="signed the list of uploads: allowed: 32 at least"):
        round_.sessions[0].answer(Stage.UNMASK, asked[:alive] + b"".join(signed[:-2]))
    assert round_.sessions[0].closed
