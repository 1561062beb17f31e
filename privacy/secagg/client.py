"""A client's side of secure aggregation: a state machine that answers the server's requests, or refuses.

Bonawitz et al. 2017 (section 4 and figure 4) and Bell et al. 2020 (algorithms 2 and 3). The client never uploads
twice, reveals both secrets of one client (no request can ask for it), continues after a refusal, or continues with
fewer clients than the round's specification requires.
"""

from __future__ import annotations

import os
from collections.abc import Sized
from dataclasses import replace
from typing import Any, Self

from numpy.typing import NDArray

from fedsim.privacy.secagg.client_state import Secrets, State
from fedsim.privacy.secagg.graph import commitment_to, part_of
from fedsim.privacy.secagg.masking import own_commitment, own_seed, pair_key, pair_masks
from fedsim.privacy.secagg.primitives import KEY, SIGNATURE, AgreementKey, Entropy, SigningKey, is_signed
from fedsim.privacy.secagg.roster import Keys, Place, read_place, read_to_reveal
from fedsim.privacy.secagg.shamir import SEALED, seal_shares, split_key, unseal_shares
from fedsim.privacy.secagg.spec import Policy, RoundSpec, Stage, check_due
from fedsim.privacy.secagg.topology import ATTEMPTS
from fedsim.privacy.secagg.transcript import (
    alive_statement,
    extended,
    hash_of,
    initial_transcript,
    is_signed_by,
    signed,
)
from fedsim.privacy.secagg.wire import INDEX, Reader, members_of, must_ascend


class ClientSession:
    """A client in one round: `begin`, then an `answer` to each request, and finally `closed`.

    Between requests a session can be stored, with its secrets (`dumps`, `loads`). It is closed once all requests are
    answered, or one was refused.
    """

    def __init__(self, state: State, policy: Policy, entropy: Entropy) -> None:
        self.spec = state.spec
        self.closed = False
        self._state = state
        self._policy = policy
        self._entropy = entropy

    @classmethod
    def begin(
        cls,
        spec: bytes,
        policy: Policy,
        me: int,
        *,
        identity: bytes | None = None,
        entropy: Entropy = os.urandom,
        graph_entropy: Entropy = os.urandom,
    ) -> tuple[Self, bytes]:
        """Begin a round and return the reply to stage `advertise`.

        Args:
            spec: The request: the round's specification.
            policy: Rounds that this client accepts.
            me: Its number.
            identity: Its private identity key (32 bytes), needed against a malicious server.
            entropy: Draws keys and secrets; anything but the operating system's is for tests.
            graph_entropy: Draws the secret behind the client's parts in the choice of the graph, which it reveals.

        Raises:
            ValueError: The client refuses the round.
        """
        agreed = RoundSpec.loads(spec)
        policy.check(agreed)
        secrets = Secrets(
            channel=bytearray(entropy(KEY)),
            masks=bytearray(entropy(KEY)),
            own=bytearray(entropy(KEY)),
            graph=bytearray(graph_entropy(KEY)),
            signing=bytearray(_signing_key(agreed, policy, me, identity) or entropy(KEY)),
        )
        keys = _public(secrets, agreed, me)
        state = State(agreed, me, secrets, list(agreed.stages), initial_transcript(agreed, me), keys)
        session = cls(state, policy, entropy)
        reply = session._signed(Stage.ADVERTISE, spec, keys.advertised)
        if agreed.malicious:
            state.advertised = replace(keys, signature=reply[-SIGNATURE:])
        return session, reply

    def answer(
        self, stage: Stage, request: bytes, *, vector: NDArray[Any] | None = None, task: str | None = None
    ) -> bytes:
        """Answer a request.

        Args:
            stage: Of the request.
            request: The server's.
            vector: In stage `upload`, the encoded vector, which is masked in place.
            task: In stage `upload`, SHA-256 (hex) of the model and the settings that the client trained on.

        Returns:
            The reply: its body and a signature.

        Raises:
            ValueError: The client refuses; the session is closed and its secrets are wiped.
        """
        if self.closed:
            raise ValueError("the session is closed")
        try:
            self.check_due(stage)
            if stage is Stage.UPLOAD:
                body = self._upload(request, vector, task)
            else:
                answers = {
                    Stage.REVEAL: self._reveal,
                    Stage.SHARE: self._share,
                    Stage.CONFIRM: self._confirm,
                    Stage.UNMASK: self._unmask,
                }
                body = answers[stage](request)
            reply = self._signed(stage, request, body)
        except ValueError:
            self.close()
            raise
        if not self._state.due:
            self.close()
        return reply

    def check_due(self, stage: Stage) -> None:
        """Raise `ValueError` for a stage that is not the next."""
        check_due(stage, self._state.due, self._state.attempts)

    def close(self) -> None:
        """End the session and wipe its secrets."""
        self.closed = True
        self._state.secrets.wipe()

    def dumps(self) -> bytes:
        """Return the session as JSON, with its secrets, but without an identity key."""
        return self._state.dumps()

    @classmethod
    def loads(
        cls, text: bytes, policy: Policy, *, identity: bytes | None = None, entropy: Entropy = os.urandom
    ) -> Self:
        """Read what `dumps` wrote; the other arguments are those of `begin`."""
        return cls(State.loads(text, signing=identity or b""), policy, entropy)

    # --- stage by stage ---------------------------------------------------------------------------------

    def _reveal(self, request: bytes) -> bytes:
        """Reveal one's part of the graph's seed, once all are committed to; commit to that of the next attempt."""
        state = self._state
        state.attempts += 1
        if state.attempts > ATTEMPTS:
            raise ValueError(f"attempt {state.attempts} to agree on the graph: allowed: {ATTEMPTS}")
        parts = [part_of(bytes(state.secrets.graph), state.attempts + later) for later in (0, 1)]
        state.fingerprint = read_to_reveal(
            request,
            state.spec,
            me=state.me,
            own=state.advertised,
            commitment=commitment_to(state.me, parts[0]),
            attempt=state.attempts,
        )
        return parts[0] + commitment_to(state.me, parts[1])

    def _share(self, request: bytes) -> bytes:
        """Find one's neighbours and give each a share of both secrets."""
        state, secrets = self._state, self._state.secrets
        place = state.place = read_place(
            request,
            state.spec,
            me=state.me,
            own=state.advertised,
            part=part_of(bytes(secrets.graph), max(state.attempts, 1)),
            fingerprint=state.fingerprint,
        )
        if self.spec.malicious:
            self._check_identities(place)
        channel = AgreementKey(bytes(secrets.channel))
        for client, (_, keys) in place.neighbours.items():
            sealing = pair_key(b"shares", channel, state.me, keys.channel, client, place.session)
            secrets.sealing[client] = bytearray(sealing)
        masks, own = (self._split(bytes(secret), place) for secret in (secrets.masks, secrets.own))
        secrets.own_share = bytearray(own[state.me])
        sealed = (
            seal_shares(bytes(sealing), state.me, client, place.session, (masks[client], own[client]))
            for client, sealing in sorted(secrets.sealing.items())
        )
        return b"".join(sealed) + own_commitment(state.me, bytes(secrets.own), place.session)

    def _split(self, secret: bytes, place: Place) -> dict[int, bytes]:
        """Return each neighbour's share of a secret, and one's own; a client's point is its place, from 1."""
        indices = {client: index for client, (index, _) in place.neighbours.items()}
        indices[self._state.me] = place.index
        points = [index + 1 for index in indices.values()]
        shares = split_key(secret, self._state.spec.threshold, points, self._entropy)
        return dict(zip(indices, shares, strict=True))

    def _upload(self, request: bytes, vector: NDArray[Any] | None, task: str | None) -> bytes:
        """Take the neighbours' shares, and mask the vector for those that have sent theirs."""
        state, secrets, place = self._state, self._state.secrets, self._place
        encoding = state.spec.encoding
        if task != state.spec.task:
            raise ValueError(f"task = {task}: allowed: {state.spec.task}, which others are to train on")
        if vector is None or vector.shape != (encoding.length,) or vector.dtype != encoding.ring.dtype:
            raise ValueError("the vector to upload is not of the round's encoding")
        self._take_shares(Reader(request), place)
        self._check_enough(secrets.own_shares, "have shared")
        others = {client: place.neighbours[client][1].masks for client in secrets.own_shares}
        masks = AgreementKey(bytes(secrets.masks))
        seeds = [(own_seed(bytes(secrets.own), place.session), 1)]
        encoding.ring.add_masks(vector, seeds + pair_masks(masks, state.me, others, place.session))
        return encoding.ring.pack(vector)

    def _take_shares(self, reader: Reader, place: Place) -> None:
        """Decrypt the neighbours' sealed shares, and keep them until the end."""
        secrets = self._state.secrets
        by_index = {index: client for client, (index, _) in place.neighbours.items()}
        indices = []
        while reader.left:
            indices.append(reader.number(INDEX))
            sealed = reader.take(SEALED)
            client = by_index.get(indices[-1])
            if client is None:
                raise ValueError(f"shares of the client at place {indices[-1]}, which is no neighbour")
            key = bytes(secrets.sealing[client])
            masks, own = unseal_shares(key, self._state.me, client, place.session, sealed)
            secrets.masks_shares[client], secrets.own_shares[client] = bytearray(masks), bytearray(own)
        must_ascend(indices, "neighbours' shares")

    def _confirm(self, request: bytes) -> bytes:
        """Sign the list of uploads."""
        self._alive_around(request)
        self._state.alive = request
        signing = SigningKey(bytes(self._state.secrets.signing))
        return signing.sign(alive_statement(self._place.session, request))

    def _unmask(self, request: bytes) -> bytes:
        """Give one share for each neighbour: of its own mask's secret if it has uploaded, of its masks' key if not."""
        reader, secrets = Reader(request), self._state.secrets
        alive = reader.take(-(-self._place.size // 8))
        around = self._alive_around(alive)
        if self.spec.malicious:
            self._check_confirmed(reader, alive)
        reader.end()
        chosen = (
            (secrets.own_shares if client in around else secrets.masks_shares)[client]
            for client in sorted(secrets.own_shares)
        )
        return b"".join((*chosen, secrets.own_share))

    # --- checks -----------------------------------------------------------------------------------------

    @property
    def _place(self) -> Place:
        if self._state.place is None:
            raise ValueError("the client has no neighbours yet")
        return self._state.place

    def _check_identities(self, place: Place) -> None:
        """Refuse neighbours' keys that are not signed by the registered identities."""
        spec = self._state.spec
        asked = hash_of(spec.dumps())
        for client, (_, keys) in place.neighbours.items():
            known = self._policy.registry.get(client)
            after = extended(initial_transcript(spec, client), Stage.ADVERTISE, asked, keys.advertised)
            if known is None or known != keys.signing or not is_signed_by(known, keys.signature, after):
                raise ValueError(f"client {client}'s keys are not signed by its registered identity")

    def _alive_around(self, alive: bytes) -> set[int]:
        """Return which neighbours have uploaded, from the list of all that have.

        Refuses an impossible list: too short, without oneself, or with a client that never shared.
        """
        place, least = self._place, self._state.spec.least
        members = members_of(alive, place.size)
        if len(members) < least:
            raise ValueError(f"{len(members)} clients are in the sum: allowed: {least} at least")
        if place.index not in members:
            raise ValueError("the list of uploads lacks this client, which has uploaded")
        around = {client for client, (index, _) in place.neighbours.items() if index in members}
        if strangers := around - self._state.secrets.own_shares.keys():
            raise ValueError(f"client {min(strangers)} is on the list of uploads, but has never shared")
        self._check_enough(around, "have uploaded")
        return around

    def _check_enough(self, neighbours: Sized, did: str) -> None:
        """Refuse to continue with fewer clients, this one included, than the threshold."""
        around, threshold = len(neighbours) + 1, self._state.spec.threshold
        if around < threshold:
            raise ValueError(f"{around} clients around here {did}: allowed: {threshold} at least")

    def _check_confirmed(self, reader: Reader, alive: bytes) -> None:
        """Refuse a list of uploads that was not signed by a quorum of all clients and by oneself."""
        place, quorum = self._place, self._state.spec.quorum
        if alive != self._state.alive:
            raise ValueError("the list of uploads is not the one that this client has confirmed")
        members, statement = members_of(alive, place.size), alive_statement(place.session, alive)
        signers = []
        while reader.left:
            signers.append(reader.number(INDEX))
            signature = reader.take(SIGNATURE)
            known = self._policy.registry.get(place.roster[signers[-1]]) if signers[-1] in members else None
            if known is None or not is_signed(known, signature, statement):
                raise ValueError(f"the client at place {signers[-1]} has not signed this list of uploads")
        must_ascend(signers, "signatures of the list of uploads")
        if (confirmed := len({*signers, place.index})) < quorum:
            raise ValueError(
                f"{confirmed} clients have signed the list of uploads: allowed: {quorum} at least"
            )

    def _signed(self, stage: Stage, request: bytes, body: bytes) -> bytes:
        """Sign a reply, and mark its stage as over."""
        state = self._state
        state.transcript = extended(state.transcript, stage, hash_of(request), body)
        if stage is state.due[0]:
            del state.due[0]
        return signed(SigningKey(bytes(state.secrets.signing)), state.transcript, body)


def _signing_key(spec: RoundSpec, policy: Policy, me: int, identity: bytes | None) -> bytes | None:
    """Return the identity key for signatures against a malicious server; None: a fresh key suffices."""
    if not spec.malicious:
        return None
    if identity is None or policy.registry.get(me) != SigningKey(identity).public:
        raise ValueError(f"client {me} is not registered with its identity key")
    return identity


def _public(secrets: Secrets, spec: RoundSpec, me: int) -> Keys:
    """Return a client's advertisement."""
    return Keys(
        channel=AgreementKey(bytes(secrets.channel)).public,
        masks=AgreementKey(bytes(secrets.masks)).public,
        signing=SigningKey(bytes(secrets.signing)).public,
        commitment=commitment_to(me, part_of(bytes(secrets.graph), 1)) if spec.reveals else b"",
    )
