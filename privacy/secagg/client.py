"""A client's side of secure aggregation: a state machine that answers the server's requests, or refuses.

Bonawitz et al. 2017 (section 4 and figure 4) and Bell et al. 2020 (algorithms 2 and 3). What the client never does,
whatever it is asked: upload twice, give both secrets of one client away (the request can't even say so), go on
after it has refused, or go on with fewer clients than the round's specification says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from numpy.typing import NDArray

from privacy.secagg.choice import commitment_to, part_of
from privacy.secagg.masking import add_pair_masks, own_commitment, own_seed
from privacy.secagg.primitives import (
    KEY,
    PROTOCOL,
    SIGNATURE,
    AgreementKey,
    Entropy,
    SigningKey,
    is_signed,
    joined,
)
from privacy.secagg.roster import Keys, Place, read_place, read_to_reveal
from privacy.secagg.shamir import split_key
from privacy.secagg.shares import SEALED, seal_shares, unseal_shares
from privacy.secagg.spec import Policy, RoundSpec, Stage
from privacy.secagg.topology import ATTEMPTS, Adversary
from privacy.secagg.transcript import beginning, goes_on, is_by, signed
from privacy.secagg.wire import INDEX, Reader, members_of, must_ascend


def alive_statement(session: bytes, alive: bytes) -> bytes:
    """Return what clients sign in stage `confirm`: that these have uploaded."""
    return joined(PROTOCOL, b"alive", session, alive)


@dataclass
class _Secrets:
    """What nobody else may know, and what neighbours have entrusted; wiped at the end.

    `bytearray`s, so that their memory can be overwritten. Copies that Python, the JSON of a stored session and the
    libraries have made in between are out of reach: they stay until their memory is used again.
    """

    channel: bytearray  # private key
    masks: bytearray  # private key
    signing: bytearray  # private key
    own: bytearray  # the secret behind the own mask
    graph: bytearray  # behind the parts in the choice of the graph
    own_share: bytearray = field(default_factory=bytearray)  # one's own share of `own`
    shares: dict[int, tuple[bytearray, bytearray]] = field(
        default_factory=dict
    )  # of each neighbour's two secrets

    def wipe(self) -> None:
        """Overwrite everything with zeros."""
        single = (self.channel, self.masks, self.signing, self.own, self.graph, self.own_share)
        for secret in (*single, *(share for pair in self.shares.values() for share in pair)):
            secret[:] = bytes(len(secret))
        self.shares.clear()


class ClientSession:
    """A client in one round: `begin`, then an `answer` to each request, and `closed` in the end.

    Between requests a session can be stored (`dumps`, `loads`); what is stored holds its secrets.

    Attributes:
        spec: What the round is.
        me: The client's number.
        closed: Whether it has ended: all is answered, or something was refused.
    """

    def __init__(self, spec: RoundSpec, policy: Policy, me: int, secrets: _Secrets) -> None:
        self.spec = spec
        self.me = me
        self.closed = False
        self._policy = policy
        self._secrets = secrets
        self._transcript = beginning(spec, me)
        self._due: list[Stage] = list(spec.stages)
        self._advertised = self._own_keys()
        self._attempts = 0  # to agree on the graph
        self._fingerprint = b""  # of the roster to which the part in the graph was revealed
        self._place: Place | None = None
        self._alive: bytes = b""  # as it was confirmed
        self._entropy: Entropy = os.urandom

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
            policy: What this client accepts.
            me: Its number.
            identity: Its private identity key (32 bytes), against a malicious server; else a fresh key signs.
            entropy: Draws keys and secrets; anything but the operating system's is for tests.
            graph_entropy: Draws the secret behind the client's parts in the choice of the graph, which it reveals.

        Raises:
            ValueError: It refuses the round.
        """
        agreed = RoundSpec.loads(spec)
        policy.check(agreed)
        secrets = _Secrets(
            channel=bytearray(entropy(KEY)),
            masks=bytearray(entropy(KEY)),
            signing=bytearray(_signing_key(agreed, policy, me, identity, entropy)),
            own=bytearray(entropy(KEY)),
            graph=bytearray(graph_entropy(KEY)),
        )
        session = cls(agreed, policy, me, secrets)
        session._entropy = entropy
        reply = session._sign(Stage.ADVERTISE, spec, session._advertised.advertised)
        if agreed.adversary is Adversary.MALICIOUS_SERVER:
            session._advertised = replace(session._advertised, signature=reply[-SIGNATURE:])
        return session, reply

    def answer(
        self, stage: Stage, request: bytes, *, vector: NDArray[Any] | None = None, task: str | None = None
    ) -> bytes:
        """Answer a request.

        Args:
            stage: Of the round.
            request: The server's.
            vector: In stage `upload`, the encoded vector, which is masked in place.
            task: There too, SHA-256 (hex) of the model and the settings that the client has trained on.

        Returns:
            The reply: its body and a signature.

        Raises:
            ValueError: It is refused. The session is closed and its secrets are wiped.
        """
        if self.closed:
            raise ValueError("the session is closed")
        try:
            body = self._body(stage, request, vector, task)
            reply = self._sign(stage, request, body)
        except ValueError:
            self.close()
            raise
        if not self._due:
            self.close()
        return reply

    def close(self) -> None:
        """End the session and wipe its secrets."""
        self.closed = True
        self._secrets.wipe()

    def _body(self, stage: Stage, request: bytes, vector: NDArray[Any] | None, task: str | None) -> bytes:
        again = stage is Stage.REVEAL and self._fingerprint and self._due[0] is Stage.SHARE
        if stage is not self._due[0] and not again:
            raise ValueError(f"stage {stage.value!r}: allowed: {self._due[0].value!r}")
        if stage is Stage.REVEAL:
            return self._reveal(request)
        if stage is Stage.SHARE:
            return self._share(request)
        if stage is Stage.UPLOAD:
            return self._upload(request, vector, task)
        if stage is Stage.CONFIRM:
            return self._confirm(request)
        return self._unmask(request)

    def _sign(self, stage: Stage, request: bytes, body: bytes) -> bytes:
        """Sign a reply, and note that its stage is over."""
        self._transcript = goes_on(self._transcript, stage, request, body)
        if stage is self._due[0]:
            del self._due[0]
        return signed(SigningKey(bytes(self._secrets.signing)), self._transcript, body)

    # --- stage by stage ---------------------------------------------------------------------------------

    def _own_keys(self) -> Keys:
        """Return what it advertises."""
        secrets = self._secrets
        return Keys(
            channel=AgreementKey(bytes(secrets.channel)).public,
            masks=AgreementKey(bytes(secrets.masks)).public,
            signing=SigningKey(bytes(secrets.signing)).public,
            commitment=self._commitment(1) if Stage.REVEAL in self.spec.stages else b"",
        )

    def _commitment(self, attempt: int) -> bytes:
        return commitment_to(self.me, self._part(attempt))

    def _part(self, attempt: int) -> bytes:
        return part_of(bytes(self._secrets.graph), attempt)

    def _reveal(self, request: bytes) -> bytes:
        """Reveal one's part in the choice of the graph, once all are committed to; commit to that of a next attempt."""
        self._attempts += 1
        if self._attempts > ATTEMPTS:
            raise ValueError(f"attempt {self._attempts} to agree on the graph: allowed: {ATTEMPTS}")
        self._fingerprint = read_to_reveal(
            request,
            self.spec,
            me=self.me,
            own=self._advertised,
            commitment=self._commitment(self._attempts),
            attempt=self._attempts,
        )
        return self._part(self._attempts) + self._commitment(self._attempts + 1)

    def _share(self, request: bytes) -> bytes:
        """Find one's neighbours and give each a share of both secrets."""
        place = read_place(
            request,
            self.spec,
            me=self.me,
            own=self._advertised,
            part=self._part(self._attempts),
            fingerprint=self._fingerprint,
        )
        self._check_identities(place)
        self._place = place
        secrets = self._secrets
        points = {self.me: place.index + 1} | {c: index + 1 for c, (index, _) in place.neighbours.items()}
        masks, own = (
            dict(
                zip(
                    points,
                    split_key(bytes(secret), self.spec.threshold, [*points.values()], self._entropy),
                    strict=True,
                )
            )
            for secret in (secrets.masks, secrets.own)
        )
        secrets.own_share = bytearray(own[self.me])
        channel = AgreementKey(bytes(secrets.channel))
        sealed = (
            seal_shares(channel, self.me, keys.channel, client, place.session, masks[client], own[client])
            for client, (_, keys) in sorted(place.neighbours.items())
        )
        return b"".join(sealed) + own_commitment(self.me, bytes(secrets.own), place.session)

    def _upload(self, request: bytes, vector: NDArray[Any] | None, task: str | None) -> bytes:
        """Take the neighbours' shares, and mask the vector for those that have sent theirs."""
        place, ring = self._placed, self.spec.encoding.ring
        if task != self.spec.task:
            raise ValueError(
                f"task = {task}: allowed: {self.spec.task}: others were given another one to train on"
            )
        if vector is None or vector.shape != (self.spec.encoding.length,) or vector.dtype != ring.dtype:
            raise ValueError("the vector to upload is not of the round's encoding")
        self._take_shares(Reader(request), place)
        self._check_enough(self._secrets.shares, "have shared")
        ring.add_mask(vector, own_seed(bytes(self._secrets.own), place.session), 1)
        others = {client: place.neighbours[client][1].masks for client in self._secrets.shares}
        add_pair_masks(ring, vector, AgreementKey(bytes(self._secrets.masks)), self.me, others, place.session)
        return ring.pack(vector)

    def _take_shares(self, reader: Reader, place: Place) -> None:
        """Decrypt what neighbours have sealed, and keep it until the end."""
        channel = AgreementKey(bytes(self._secrets.channel))
        by_index = {index: (client, keys) for client, (index, keys) in place.neighbours.items()}
        indices = []
        while reader.left:
            indices.append(reader.number(INDEX))
            sealed = reader.take(SEALED)
            if indices[-1] not in by_index:
                raise ValueError(f"shares of the client at place {indices[-1]}, which is no neighbour")
            client, keys = by_index[indices[-1]]
            masks, own = unseal_shares(channel, self.me, keys.channel, client, place.session, sealed)
            self._secrets.shares[client] = bytearray(masks), bytearray(own)
        must_ascend(indices, "neighbours' shares")

    def _confirm(self, request: bytes) -> bytes:
        """Sign who has uploaded."""
        self._alive_around(request)
        self._alive = request
        return SigningKey(bytes(self._secrets.signing)).sign(alive_statement(self._placed.session, request))

    def _unmask(self, request: bytes) -> bytes:
        """Give for each neighbour one share: of its own mask's secret if it has uploaded, of its other key if not."""
        reader = Reader(request)
        alive = reader.take(-(-self._placed.size // 8))
        around = self._alive_around(alive)
        if self.spec.adversary is Adversary.MALICIOUS_SERVER:
            self._check_confirmed(reader, alive, around)
        reader.end()
        shares = self._secrets.shares
        chosen = (shares[client][client in around] for client in sorted(shares))
        return b"".join(map(bytes, chosen)) + bytes(self._secrets.own_share)

    # --- stored between two requests ----------------------------------------------------------------------

    def dumps(self) -> bytes:
        """Return the session as JSON, with its secrets, but for an identity key."""
        secrets, place = self._secrets, self._place
        state = {
            "spec": self.spec.dumps().decode(),
            "me": self.me,
            "due": self._due,
            "transcript": self._transcript.hex(),
            "advertised": _keys_as_hex(self._advertised),
            "attempts": self._attempts,
            "fingerprint": self._fingerprint.hex(),
            "alive": self._alive.hex(),
            "secrets": {name: getattr(secrets, name).hex() for name in _STORED},
            "shares": {client: [share.hex() for share in pair] for client, pair in secrets.shares.items()},
            "place": place and [place.session.hex(), place.size, place.index],
            "neighbours": place
            and {client: [index, _keys_as_hex(keys)] for client, (index, keys) in place.neighbours.items()},
        }
        if self._is_ephemeral:
            state["signing"] = secrets.signing.hex()
        return json.dumps(state).encode()

    @classmethod
    def loads(
        cls, text: bytes, policy: Policy, *, identity: bytes | None = None, entropy: Entropy = os.urandom
    ) -> Self:
        """Read what `dumps` wrote; the other arguments are those of `begin`."""
        state = json.loads(text)
        stored = {name: bytearray.fromhex(value) for name, value in state["secrets"].items()}
        shares = {
            int(client): (bytearray.fromhex(masks), bytearray.fromhex(own))
            for client, (masks, own) in state["shares"].items()
        }
        if "signing" not in state and identity is None:
            raise ValueError("a session that is signed by an identity key needs it")
        signing = bytes.fromhex(state["signing"]) if "signing" in state else identity
        secrets = _Secrets(**stored, signing=bytearray(signing or b""), shares=shares)
        session = cls(RoundSpec.loads(state["spec"].encode()), policy, state["me"], secrets)
        session._entropy = entropy
        session._due = [Stage(stage) for stage in state["due"]]
        session._transcript = bytes.fromhex(state["transcript"])
        session._advertised = _keys_from_hex(state["advertised"])
        session._attempts = state["attempts"]
        session._fingerprint = bytes.fromhex(state["fingerprint"])
        session._alive = bytes.fromhex(state["alive"])
        if state["place"]:
            root, size, index = state["place"]
            neighbours = {
                int(client): (other, _keys_from_hex(keys))
                for client, (other, keys) in state["neighbours"].items()
            }
            session._place = Place(bytes.fromhex(root), size, index, neighbours)
        return session

    @property
    def _is_ephemeral(self) -> bool:
        """Whether the signing key is the session's own, not the client's identity."""
        return self.spec.adversary is not Adversary.MALICIOUS_SERVER

    # --- what it insists on -----------------------------------------------------------------------------

    @property
    def _placed(self) -> Place:
        if self._place is None:
            raise ValueError("the client has no neighbours yet")
        return self._place

    def _check_identities(self, place: Place) -> None:
        """Against a malicious server: neighbours' keys must be signed by who is registered."""
        if self.spec.adversary is not Adversary.MALICIOUS_SERVER:
            return
        for client, (_, keys) in place.neighbours.items():
            known = self._policy.registry.get(client)
            transcript = goes_on(
                beginning(self.spec, client), Stage.ADVERTISE, self.spec.dumps(), keys.advertised
            )
            if known is None or known != keys.signing or not is_by(known, keys.signature, transcript):
                raise ValueError(f"client {client}'s keys are not signed by its registered identity")

    def _alive_around(self, alive: bytes) -> set[int]:
        """Return which neighbours have uploaded, from the list of all that have.

        Raises:
            ValueError: The list can't be: too few, not oneself, or one that has never shared.
        """
        place = self._placed
        members = members_of(alive, place.size)
        if len(members) < self.spec.least:
            raise ValueError(f"{len(members)} clients are in the sum: allowed: {self.spec.least} at least")
        if place.index not in members:
            raise ValueError("this client is said to have been lost, and is not")
        around = {client for client, (index, _) in place.neighbours.items() if index in members}
        if strangers := around - self._secrets.shares.keys():
            raise ValueError(f"client {min(strangers)} is said to have uploaded, and has never shared")
        self._check_enough(around, "have uploaded")
        return around

    def _check_enough(self, neighbours: Iterable[int], did: str) -> None:
        """Refuse to go on with fewer around, oneself included, than it takes to learn a secret."""
        around = len(set(neighbours)) + 1
        if around < self.spec.threshold:
            raise ValueError(f"{around} clients around here {did}: allowed: {self.spec.threshold} at least")

    def _check_confirmed(self, reader: Reader, alive: bytes, around: set[int]) -> None:
        """Refuse a list of who has uploaded that not a threshold of neighbours has signed, as one has oneself."""
        place = self._placed
        if alive != self._alive:
            raise ValueError("who has uploaded is not what this client has confirmed")
        by_index = {place.neighbours[client][0]: place.neighbours[client][1] for client in around}
        statement = alive_statement(place.session, alive)
        signers = []
        while reader.left:
            signers.append(reader.number(INDEX))
            signature = reader.take(SIGNATURE)
            if signers[-1] not in by_index or not is_signed(
                by_index[signers[-1]].signing, signature, statement
            ):
                raise ValueError(f"the client at place {signers[-1]} has not confirmed who has uploaded")
        must_ascend(signers, "signatures of who has uploaded")
        self._check_enough(signers, "have confirmed who has uploaded")


def _signing_key(spec: RoundSpec, policy: Policy, me: int, identity: bytes | None, entropy: Entropy) -> bytes:
    """Return the private key that signs: the client's identity against a malicious server, else a fresh one."""
    if spec.adversary is not Adversary.MALICIOUS_SERVER:
        return entropy(KEY)
    if identity is None or policy.registry.get(me) != SigningKey(identity).public:
        raise ValueError(f"client {me} is not registered with its identity key")
    return identity


_STORED = ("channel", "masks", "own", "graph", "own_share")


def _keys_as_hex(keys: Keys) -> list[str]:
    return [getattr(keys, each.name).hex() for each in fields(keys)]


def _keys_from_hex(values: list[str]) -> Keys:
    return Keys(*map(bytes.fromhex, values))
