"""Specification of a round of secure aggregation, and the policy by which a client accepts it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from fedsim.privacy.secagg.encoding import Encoding
from fedsim.privacy.secagg.settings import SecaggSettings
from fedsim.privacy.secagg.topology import Adversary, Assumptions, Topology, topology

VERSION = 1


class TooFew(ValueError):
    """Too few clients are left for a protected sum."""


class Stage(StrEnum):
    """A request to each remaining client, and its reply."""

    ADVERTISE = "advertise"  # public keys
    REVEAL = "reveal"  # the clients' parts of the graph's seed
    SHARE = "share"  # shares of the secrets, for the neighbours
    UPLOAD = "upload"  # the masked vector
    CONFIRM = "confirm"  # a signature of the list of uploads
    UNMASK = "unmask"  # for each neighbour one share: of its masks' key if lost, of its own mask's if not


def check_due(stage: Stage, due: Sequence[Stage], attempts: int) -> None:
    """Raise `ValueError` for a stage that is not due.

    `reveal` may repeat after earlier attempts to agree on the graph, if clients were lost in it.
    """
    if not due:
        raise ValueError(f"stage {stage.value!r}: allowed: none, the session has ended")
    if stage is not due[0] and not (stage is Stage.REVEAL and due[0] is Stage.SHARE and attempts):
        raise ValueError(f"stage {stage.value!r}: allowed: {due[0].value!r}")


@dataclass(frozen=True, kw_only=True)
class RoundSpec:
    """All public values of a round before it begins."""

    run: str  # its id
    round: int  # from 1; a client uploads once in a round of a run
    session: str  # a fresh random number, in hex: every attempt differs
    mode: Literal["real", "ideal"]  # ideal: the same sum without any protection
    clients: int  # number of invited clients
    degree: int  # neighbours of each; all others on the complete graph
    threshold: int  # shares needed to reconstruct a secret
    least: int  # fewest clients in the sum
    quorum: int  # signatures of the list of uploads needed against a malicious server, of all clients
    adversary: Adversary  # that the protocol withstands
    task: str  # SHA-256 (hex) of the clients' task: the global model and its settings
    encoding: Encoding  # of a client's vector
    version: int = VERSION  # of the protocol

    @property
    def complete(self) -> bool:
        """Whether everyone is everyone's neighbour."""
        return self.degree >= self.clients - 1

    @property
    def malicious(self) -> bool:
        """Whether the server may lie."""
        return self.adversary is Adversary.MALICIOUS_SERVER

    @property
    def reveals(self) -> bool:
        """Whether the clients choose the graph: against a malicious server, if it is sparse."""
        return self.malicious and not self.complete

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of a round, in order; `REVEAL` may repeat."""
        needed = {Stage.REVEAL: self.reveals, Stage.CONFIRM: self.malicious}
        return tuple(stage for stage in Stage if needed.get(stage, True))

    def dumps(self) -> bytes:
        """Return the specification as canonical JSON."""
        return self._text

    @functools.cached_property
    def _text(self) -> bytes:
        tree = asdict(self) | {"encoding": self.encoding.to_dict()}
        return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def loads(cls, text: bytes) -> RoundSpec:
        """Read what `dumps` wrote; raises `ValueError` if it is invalid, not canonical, or of another version."""
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
    """What each party knows of a run in advance, independently; a client refuses rounds that differ."""

    assumptions: Assumptions  # they determine the graph
    encoding: Encoding  # of a vector; its number of clients is ignored
    graph: Literal["auto", "complete", "k-regular"] = "auto"
    mode: Literal["real", "ideal"] = "real"
    minimum: int = 3  # fewest clients in a sum
    registry: Mapping[int, bytes] = field(default_factory=dict)
    """Each client's public identity key (32 bytes), not chosen by the server; for use against a malicious server."""

    def topology(self, clients: int) -> Topology:
        """Return graph and threshold for a number of invited clients; raises `ValueError` if there are none."""
        return topology(clients, self.assumptions, graph=self.graph, minimum=self.minimum)

    def spec(self, *, run: str, round_: int, session: str, clients: int, task: str) -> RoundSpec:
        """Return the round that this policy allows; raises `ValueError` if none has this number of clients."""
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
        """Raise `ValueError` for a round that differs; the message names the key, its value and the allowed one."""
        allowed = self.spec(
            run=spec.run, round_=spec.round, session=spec.session, clients=spec.clients, task=spec.task
        )
        if spec == allowed:
            return
        asked, may_be = _flat(spec), _flat(allowed)
        key = next(key for key in asked if asked[key] != may_be[key])
        raise ValueError(f"{key} = {asked[key]}: allowed: {may_be[key]}")


def _flat(spec: RoundSpec) -> dict[str, Any]:
    tree = asdict(spec)
    return {key: value for key, value in tree.items() if key != "encoding"} | spec.encoding.to_dict()


def make_policy(
    settings: SecaggSettings,
    *,
    dimension: int,
    max_weight: int,
    metrics: tuple[str, ...],
    registry: Mapping[int, bytes],
) -> Policy:
    """Return the policy of `[privacy.secagg]`; `dimension` is the model's, the others as in `Encoding` and `Policy`."""
    return Policy(
        assumptions=Assumptions(settings.corrupt, settings.dropout, Adversary(settings.adversary)),
        encoding=Encoding(
            dimension,
            cohort=1,  # each round has its own
            input_bits=settings.input_bits,
            clip=settings.clip,
            max_weight=max_weight,
            metrics=metrics,
        ),
        graph=settings.graph,
        mode=settings.mode,
        minimum=settings.minimum,
        registry=registry,
    )
