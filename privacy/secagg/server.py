"""The server's side of secure aggregation: it relays the clients' messages, and learns the sum.

Bonawitz et al. 2017 (figure 4) and Bell et al. 2020 (algorithms 2 and 3). Every reply is checked; a client with an
invalid or missing reply is lost.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from fedsim.privacy.secagg.graph import commitment_to
from fedsim.privacy.secagg.masking import own_commitment, own_seed, pair_masks
from fedsim.privacy.secagg.primitives import KEY, SIGNATURE, AgreementKey, is_signed
from fedsim.privacy.secagg.progress import Progress, Total, Uploads
from fedsim.privacy.secagg.roster import Keys, Roster, session_id
from fedsim.privacy.secagg.shamir import PRIME, SEALED, SHARE, combine_key
from fedsim.privacy.secagg.spec import RoundSpec, Stage, TooFew
from fedsim.privacy.secagg.transcript import (
    alive_statement,
    body_of,
    checked_body,
    hash_of,
    initial_transcript,
)
from fedsim.privacy.secagg.wire import Reader, bitmap, index_bytes

PROBE = AgreementKey(bytes(KEY))  # no secret: a public key of small order has no agreement with any


@dataclass(frozen=True)
class MaskedUploads(Uploads):
    """Adds masked vectors after checking their clients' signatures."""

    known: Mapping[int, tuple[bytes, bytes, bytes]]
    """For each asked client: its signing key, its transcript, and the hash of the request."""

    def _checked(self, total: Total, client: int, reply: bytes) -> memoryview:
        if client not in self.known or client in total.clients:
            raise ValueError("was not asked, or has answered already")
        signing, transcript, asked = self.known[client]
        body, total.transcripts[client] = checked_body(reply, signing, transcript, Stage.UPLOAD, asked)
        return body


class ServerSession(Progress):
    """The server in one round; `progress.Progress` defines the stages.

    Args:
        spec: The round's specification.
        clients: Invited clients.
        registry: Public identity keys, against a malicious server (an honest one finds forgeries early).
        kwargs: As `Progress`.
    """

    def __init__(
        self,
        spec: RoundSpec,
        clients: Iterable[int],
        *,
        registry: Mapping[int, bytes] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(spec, clients, **kwargs)
        self._registry = registry or {}
        self._transcripts = {client: initial_transcript(spec, client) for client in self.roster}
        self._asked_hashes: dict[int, bytes] = {}  # of the current requests
        self._to_all: bytes | None = None
        self._keys: dict[int, Keys] = {}
        self._commitments: dict[int, bytes] = {}  # to the current part of the graph's seed
        self._next_commitments: dict[int, bytes] = {}
        self._known_roster: Roster | None = None
        self._sealed: dict[int, dict[int, bytes]] = {}  # by receiver, by sender
        self._own_commitments: dict[int, bytes] = {}
        self._confirmations: dict[int, bytes] = {}
        self._shares: dict[int, dict[int, bytes]] = {}  # by owner, by the point of its holder
        self._uploads: MaskedUploads | None = None

    # --- requests ---------------------------------------------------------------------------------------

    def requests(self) -> dict[int, bytes]:
        """Return the request to each remaining client."""
        self._to_all = self._same_for_all()
        requests = super().requests()
        self._uploads = None
        hashed = functools.lru_cache(maxsize=1)(hash_of)  # most stages have one request for all
        self._asked_hashes = {client: hashed(request) for client, request in requests.items()}
        return requests

    def _same_for_all(self) -> bytes | None:
        """Return the current stage's request if it is the same for all."""
        if self.stage is Stage.ADVERTISE:
            return self.spec.dumps()
        if self.stage is Stage.REVEAL:
            return self._roster.to_reveal(self._attempt, self._commitments)
        if self.stage is Stage.SHARE and self.spec.complete:
            return self._roster.whole()
        if self.stage is Stage.SHARE and self.spec.reveals:
            return self._roster.whole({c: self._commitments[c] + self._parts[c] for c in self.roster})
        if self.stage is Stage.CONFIRM:
            return self._alive
        if self.stage is Stage.UNMASK:
            return self._alive + self._confirmed
        return None

    def _request(self, client: int) -> bytes:
        if self._to_all is not None:
            return self._to_all
        if self.stage is Stage.SHARE:
            return self._roster.around(client, self._graph_seed, self._neighbours[client])
        if self.stage is Stage.UPLOAD:
            return self._at_places(self._sealed.get(client, {}))
        raise ValueError(f"stage {self._present.value!r} has one request for all")

    @property
    def _confirmed(self) -> bytes:
        """The signatures of the list of uploads that clients need."""
        signers = sorted(self._confirmations)[: self.spec.quorum]
        return self._at_places({signer: self._confirmations[signer] for signer in signers})

    def _at_places(self, parts: Mapping[int, bytes]) -> bytes:
        """Return clients' parts in the order of the roster, each after its client's place there."""
        return b"".join(index_bytes(self._roster.index(client)) + parts[client] for client in sorted(parts))

    @property
    def _alive(self) -> bytes:
        """The list of uploads, as bits over the roster."""
        return bitmap(map(self._roster.index, self.uploaded), len(self.roster))

    @property
    def _roster(self) -> Roster:
        """The current roster, with keys."""
        if self._known_roster is None or len(self._known_roster.clients) != len(self.roster):
            self._known_roster = Roster({client: self._keys[client] for client in self.roster})
        return self._known_roster

    # --- replies ----------------------------------------------------------------------------------------

    def _accept(self, client: int, reply: bytes) -> None:
        if self.stage is Stage.ADVERTISE:
            self._accept_keys(client, reply)
            return
        body, after = checked_body(
            reply,
            self._keys[client].signing,
            self._transcripts[client],
            self._present,
            self._asked_hashes[client],
        )
        accept = {
            Stage.REVEAL: self._accept_part,
            Stage.SHARE: self._accept_shares,
            Stage.CONFIRM: self._accept_confirmation,
            Stage.UNMASK: self._accept_unmasking,
        }[self._present]
        accept(client, Reader(bytes(body)))
        self._transcripts[client] = after

    @property
    def _present(self) -> Stage:
        if self.stage is None:
            raise ValueError("the round is over")
        return self.stage

    def _accept_keys(self, client: int, reply: bytes) -> None:
        body, signature = body_of(reply)
        reader = Reader(bytes(body))
        keys = Keys.read(reader, self.spec, signed=False)
        reader.end()
        for public in (keys.channel, keys.masks):  # with another one, its neighbours would refuse the round
            PROBE.agree(public)
        _, after = checked_body(
            reply, keys.signing, self._transcripts[client], Stage.ADVERTISE, self._asked_hashes[client]
        )
        if self.spec.malicious:
            if self._registry.get(client) != keys.signing:
                raise ValueError("its keys are not signed by its registered identity")
            keys = replace(keys, signature=signature)
        self._keys[client], self._transcripts[client] = keys, after
        self._commitments[client] = keys.commitment

    def _accept_part(self, client: int, reader: Reader) -> None:
        part, following = reader.take(KEY), reader.take(KEY)
        reader.end()
        if commitment_to(client, part) != self._commitments[client]:
            raise ValueError("its part in the graph is not the one that it committed to")
        self._parts[client], self._next_commitments[client] = part, following

    def _accept_shares(self, client: int, reader: Reader) -> None:
        sealed = {neighbour: reader.take(SEALED) for neighbour in sorted(self._neighbours[client])}
        commitment = reader.take(KEY)
        reader.end()
        for neighbour, shares in sealed.items():
            self._sealed.setdefault(neighbour, {})[client] = shares
        self._own_commitments[client] = commitment

    def _accept_confirmation(self, client: int, reader: Reader) -> None:
        signature = reader.take(SIGNATURE)
        reader.end()
        statement = alive_statement(self._session, self._to_all or b"")
        if not is_signed(self._keys[client].signing, signature, statement):
            raise ValueError("its confirmation is not signed")
        self._confirmations[client] = signature

    def _accept_unmasking(self, client: int, reader: Reader) -> None:
        owners = [*sorted(self._sealed.get(client, {})), client]
        shares = {owner: reader.take(SHARE) for owner in owners}
        reader.end()
        if any(int.from_bytes(share, "big") >= PRIME for share in shares.values()):
            raise ValueError("sent invalid shares")
        point = self._roster.index(client) + 1
        for owner, share in shares.items():
            self._shares.setdefault(owner, {})[point] = share

    @property
    def uploads(self) -> MaskedUploads:
        """The adder of uploads, in stage `upload`."""
        if self._uploads is None:
            known = {
                client: (self._keys[client].signing, self._transcripts[client], asked)
                for client, asked in self._asked_hashes.items()
            }
            self._uploads = MaskedUploads(self.spec, known)
        return self._uploads

    def close_stage(self) -> None:
        """Go on with the clients that have answered; raises `TooFew`."""
        if self.stage is Stage.UPLOAD and self._received is not None:
            self._transcripts.update(self._received.transcripts)
        super().close_stage()

    def _revealed(self, came: frozenset[int]) -> frozenset[int]:
        asked = super()._revealed(came)
        if not self._neighbours:
            self._commitments = dict(self._next_commitments)
        return asked

    # --- the sum ----------------------------------------------------------------------------------------

    @functools.cached_property
    def _session(self) -> bytes:
        """The session's id, once the graph is drawn."""
        return session_id(self.spec, self._roster.root, b"" if self.spec.complete else self._graph_seed)

    def _unmasked(self, values: NDArray[Any]) -> NDArray[Any]:
        session = self._session
        masks: list[tuple[bytes, int]] = []
        for client in sorted(self.uploaded):
            secret = self._secret_of(client)
            if own_commitment(client, secret, session) != self._own_commitments[client]:
                raise TooFew(f"shares of client {client}'s own mask are wrong: there is no sum")
            masks.append((own_seed(secret, session), -1))
        for client in sorted(self._shared - self.uploaded):
            around = self._neighbours[client] & self.uploaded
            if not around:
                continue
            key = AgreementKey(self._secret_of(client))
            if key.public != self._keys[client].masks:
                raise TooFew(f"shares of lost client {client}'s key are wrong: there is no sum")
            others = {other: self._keys[other].masks for other in around}
            masks += pair_masks(key, client, others, session)
        self.spec.encoding.ring.add_masks(values, masks)
        return values

    def _secret_of(self, client: int) -> bytes:
        """Reconstruct a client's secret from a threshold of shares."""
        shares = self._shares[client]
        chosen = sorted(shares)[: self.spec.threshold]
        try:
            return combine_key({point: shares[point] for point in chosen})
        except ValueError as error:
            raise TooFew(f"client {client}: {error}") from None

    def _forget_messages(self) -> None:
        super()._forget_messages()
        for kept in (self._sealed, self._shares, self._confirmations):
            kept.clear()
        self._uploads = None
