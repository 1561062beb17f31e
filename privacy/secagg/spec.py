"""What a round of secure aggregation is: agreed on by all, and refused by a client where it may not be so."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from fedsim.privacy.secagg.encoding import Encoding
from fedsim.privacy.secagg.topology import Adversary, Assumptions, Topology, topology

VERSION = 1


class TooFew(ValueError):
    """Too few clients are left for a sum that tells nothing but itself."""


class Stage(StrEnum):
    """A message to each client that is still there, and its reply."""

    ADVERTISE = "advertise"  # public keys
    REVEAL = "reveal"  # the clients' shares in the choice of the graph
    SHARE = "share"  # shares of the secrets, for the neighbours
    UPLOAD = "upload"  # the masked vector
    CONFIRM = "confirm"  # a signature on who has uploaded
    UNMASK = (
        "unmask"  # for each neighbour one share: of its masks' key if it is lost, of its own mask's if not
    )


def check_due(stage: Stage, due: Sequence[Stage], attempts: int) -> None:
    """Raise `ValueError` for a stage that is not the next one due.

    `reveal` may come again, where clients were lost in it: then there were attempts to agree on the graph before.
    """
    if not due:
        raise ValueError(f"stage {stage.value!r}: allowed: none, the session has ended")
    if stage is not due[0] and not (stage is Stage.REVEAL and due[0] is Stage.SHARE and attempts):
        raise ValueError(f"stage {stage.value!r}: allowed: {due[0].value!r}")


@dataclass(frozen=True, kw_only=True)
class RoundSpec:
    """All that is public of a round before it begins.

    Attributes:
        run: Which run it is of.
        round: From 1; a client uploads once in a round of a run.
        session: A fresh random number, in hex: no two tries are the same.
        mode: `real`, or `ideal`: the same sum without any protection.
        clients: How many were invited.
        degree: Neighbours of each; all others on the complete graph.
        threshold: Shares that it takes to learn a secret.
        least: Clients in the sum at least.
        quorum: Signatures on who has uploaded that it takes, against a malicious server, of all clients.
        adversary: Whom it holds against.
        task: SHA-256 (hex) of what clients are to train on, the global model and its settings.
        encoding: Of a client's vector.
        version: Of the protocol.
    """

    run: str
    round: int
    session: str
    mode: Literal["real", "ideal"]
    clients: int
    degree: int
    threshold: int
    least: int
    quorum: int
    adversary: Adversary
    task: str
    encoding: Encoding
    version: int = VERSION

    @property
    def complete(self) -> bool:
        """Whether everyone is everyone's neighbour."""
        return self.degree >= self.clients - 1

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of a round, in order; `REVEAL` may come again."""
        malicious = self.adversary is Adversary.MALICIOUS_SERVER
        needed = {
            Stage.REVEAL: malicious and not self.complete,
            Stage.CONFIRM: malicious,
        }
        return tuple(stage for stage in Stage if needed.get(stage, True))

    def dumps(self) -> bytes:
        """Return the specification as JSON in its one form."""
        return self._text

    @functools.cached_property
    def _text(self) -> bytes:
        tree = asdict(self) | {"encoding": self.encoding.to_dict()}
        return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def loads(cls, text: bytes) -> RoundSpec:
        """Read what `dumps` wrote.

        Raises:
            ValueError: It is none, is not in its one form, or of another version.
        """
        try:
            tree = dict(json.loads(text))
        except (ValueError, TypeError):
            raise ValueError("the round's specification is no JSON") from None
        if tree.get("version") != VERSION:
            raise ValueError(f"version = {tree.get('version')}: allowed: {VERSION}, this client's")
        try:
            tree["encoding"] = Encoding.from_dict(tree["encoding"])
            tree["adversary"] = Adversary(tree["adversary"])
            spec = cls(**tree)
            as_written = spec.dumps()
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the round's specification lacks or has too much: {error}") from None
        if as_written != text:
            raise ValueError("the round's specification is not in its one form")
        return spec


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the parties know of a run beforehand, not from each other; a client refuses rounds that don't agree.

    Attributes:
        assumptions: How many are corrupt or lost at most, and whom to hold against; the graph follows.
        encoding: Of a vector; the number of clients in it does not count.
        graph: Which graph.
        mode: Whether it is real.
        minimum: Clients in a sum at least.
        registry: Each client's public identity key (32 bytes), which the server has no say in; needed, and used,
            against a malicious server.
    """

    assumptions: Assumptions
    encoding: Encoding
    graph: Literal["auto", "complete", "k-regular"] = "auto"
    mode: Literal["real", "ideal"] = "real"
    minimum: int = 3
    registry: Mapping[int, bytes] = field(default_factory=dict)

    def topology(self, clients: int) -> Topology:
        """Return graph and threshold for so many invited clients; `ValueError` says why there are none."""
        return topology(clients, self.assumptions, graph=self.graph, minimum=self.minimum)

    def spec(self, *, run: str, round_: int, session: str, clients: int, task: str) -> RoundSpec:
        """Return the round that this policy allows.

        Raises:
            ValueError: There is none for so many clients.
        """
        shape = self.topology(clients)
        return RoundSpec(
            run=run,
            round=round_,
            session=session,
            mode=self.mode,
            clients=clients,
            degree=shape.degree,
            threshold=shape.threshold,
            least=max(shape.survivors_minimum, self.minimum),
            quorum=shape.quorum,
            adversary=shape.adversary,
            task=task,
            encoding=replace(self.encoding, cohort=clients),
        )

    def check(self, spec: RoundSpec) -> None:
        """Refuse a round that is not the one that this policy allows.

        Raises:
            ValueError: It differs; the message names the key, its value and what is allowed.
        """
        allowed = self.spec(
            run=spec.run, round_=spec.round, session=spec.session, clients=spec.clients, task=spec.task
        )
        if spec == allowed:
            return
        asked, may_be = _flat(spec), _flat(allowed)
        for key in (key for key in asked if asked[key] != may_be[key]):
            raise ValueError(f"{key} = {asked[key]}: allowed: {may_be[key]}")


def _flat(spec: RoundSpec) -> dict[str, Any]:
    tree = asdict(spec)
    return {key: value for key, value in tree.items() if key != "encoding"} | spec.encoding.to_dict()
