"""A client's state in a round between messages, and its storage."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from fedsim.privacy.secagg.roster import Keys, Place
from fedsim.privacy.secagg.spec import RoundSpec, Stage


@dataclass
class Secrets:
    """The client's secrets, and its neighbours' shares; wiped at the end.

    `bytearray`s, so that their memory can be overwritten. Copies made by Python, the libraries and the JSON of a
    stored session can't be wiped: they stay until their memory is reused.
    """

    channel: bytearray  # private key of the channel to each neighbour
    masks: bytearray  # private key of the masks shared with each neighbour
    own: bytearray  # the secret behind the own mask
    graph: bytearray  # the secret behind the parts of the graph's seed
    signing: bytearray  # private key of the signatures
    own_share: bytearray = field(default_factory=bytearray)  # one's own share of `own`
    sealing: dict[int, bytearray] = field(default_factory=dict)  # the key to each neighbour's channel
    masks_shares: dict[int, bytearray] = field(default_factory=dict)  # a share of each neighbour's `masks`
    own_shares: dict[int, bytearray] = field(default_factory=dict)  # a share of each neighbour's `own`

    def wipe(self) -> None:
        """Overwrite everything with zeros."""
        for each in fields(self):
            value = getattr(self, each.name)
            for secret in [value] if isinstance(value, bytearray) else value.values():
                secret[:] = bytes(len(secret))


@dataclass
class State:
    """A session's stored state."""

    spec: RoundSpec
    me: int  # the client's number
    secrets: Secrets
    due: list[Stage]  # the stages that are not over
    transcript: bytes  # hash of all received and sent messages
    advertised: Keys  # its public keys
    attempts: int = 0  # to agree on the graph
    fingerprint: bytes = b""  # of the roster to which its part of the graph's seed was revealed
    place: Place | None = None  # among the others, once known
    alive: bytes = b""  # the list of uploads that it has confirmed

    def dumps(self) -> bytes:
        """Return the state as JSON, with its secrets but without an identity key."""
        tree = asdict(self) | {"spec": self.spec.dumps().decode()}
        if self.spec.malicious:
            del tree["secrets"]["signing"]
        return json.dumps(tree, default=lambda value: value.hex()).encode()

    @classmethod
    def loads(cls, text: bytes, *, signing: bytes) -> State:
        """Read what `dumps` wrote; the signing key is used if none was stored."""
        tree: dict[str, Any] = json.loads(text)
        secrets = {"signing": signing.hex()} | tree["secrets"]
        place = tree["place"]
        return cls(
            spec=RoundSpec.loads(tree["spec"].encode()),
            me=tree["me"],
            secrets=Secrets(**{name: _secret(value) for name, value in secrets.items()}),
            due=[Stage(stage) for stage in tree["due"]],
            transcript=bytes.fromhex(tree["transcript"]),
            advertised=_keys(tree["advertised"]),
            attempts=tree["attempts"],
            fingerprint=bytes.fromhex(tree["fingerprint"]),
            place=place
            and Place(
                session=bytes.fromhex(place["session"]),
                size=place["size"],
                index=place["index"],
                neighbours={int(c): (at, _keys(keys)) for c, (at, keys) in place["neighbours"].items()},
                roster=tuple(place["roster"]),
            ),
            alive=bytes.fromhex(tree["alive"]),
        )


def _secret(value: str | dict[str, str]) -> Any:
    if isinstance(value, str):
        return bytearray.fromhex(value)
    return {int(client): bytearray.fromhex(text) for client, text in value.items()}


def _keys(tree: dict[str, str]) -> Keys:
    return Keys(**{name: bytes.fromhex(text) for name, text in tree.items()})
