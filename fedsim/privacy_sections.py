"""The table `[privacy]` of an experiment: which mechanisms are on, and with what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fedsim.client_level_sections import DpFedavgSection, DpFtrlSection, LocalDpSection
from fedsim.privacy.dp_sgd.sampling import Batches
from fedsim.privacy.events import Relation
from fedsim.privacy.settings import Section, kebab
from fedsim.privacy.validation import check_one_of, invalid
from fedsim.sections import ClientSection

PARTICIPATIONS = "participations"  # the record in a client's state that counts the `rounds` it took part in
NOT_YET = ("audit", "distributed-dp")


class DpSgdSection(Section):
    """Example-level differential privacy: each client trains with DP-SGD (Abadi et al. 2016).

    Each step draws the client's records by independent coins, clips each record's gradient, and adds Gaussian
    noise to the sum. Protected is one record of one client; how many records a client has is public under zero-out,
    and protected under add-or-remove-one, where neither the ledger nor the manifest says it.
    """

    epsilon: float | None = Field(default=None, gt=0)
    """What `adversary` may learn at most; the noise follows from it. Either this or `noise-multiplier`."""
    noise_multiplier: float | None = Field(default=None, gt=0)
    """Standard deviation of the noise on the sum of the clipped gradients, in units of `clip`."""
    delta: float = Field(gt=0, lt=1)
    """Probability that epsilon does not hold: below 1 / (records of all clients)."""
    clip: float = Field(default=1.0, gt=0)
    """L2 norm that a record's gradient has at most."""
    adversary: Literal["known-cohort", "released-models"] = "known-cohort"
    """Whom `epsilon` is meant for: who sees each client's update, as the server does, or only the global models."""
    max_participations: int | None = Field(default=None, ge=1)
    """Rounds that a client takes part in at most; it refuses more. Unset: every round."""
    rate: float | None = Field(default=None, gt=0, le=1)
    """Sampling probability of a record; unset: `client.batch-size` / the client's records."""
    max_batch: int | None = Field(default=None, ge=1)
    """Records in a step at most: of more, a random subset stays (truncated Poisson sampling; zero-out only)."""
    relation: Literal["zero-out", "add-or-remove-one"] = "zero-out"
    """Neighbouring data: one record without effect, or one record more, which needs a public `rate`, `client.steps`
    and equal weights."""
    kernel: Literal["auto", "opacus", "fast", "compiled"] = "auto"
    """How gradients are computed: `opacus` by its hooks, `fast` by ours, `compiled` by torch.compile."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_one_of(self.epsilon, self.noise_multiplier)
        if self.adversary == "released-models" and self.max_participations is not None:
            raise invalid(
                "max-participations",
                self.max_participations,
                "a client that stops after a budget is not sampled by coins alone, so there is no theorem for "
                "adversary = 'released-models'; allowed: 'known-cohort'",
            )
        if self.neighbours is Relation.ADD_OR_REMOVE_ONE and self.max_batch is not None:
            raise invalid(
                "max-batch",
                self.max_batch,
                "the law of batches that are cut has the number of records in it, which relation = "
                "'add-or-remove-one' protects; allowed with it: none, or relation = 'zero-out'",
            )
        if self.kernel == "compiled" and self.max_batch is None:
            raise invalid("kernel", self.kernel, "needs max-batch: compiled code has one shape of a batch")
        return self

    @property
    def neighbours(self) -> Relation:
        """Which data sets are neighbours."""
        return Relation(self.relation)

    def batches(self, client: ClientSection, records: int) -> Batches:
        """Return how a client with that many records draws them."""
        return Batches.of(
            records,
            client.batch_size,
            epochs=client.epochs,
            steps=client.steps,
            rate=self.rate,
            max_batch=self.max_batch,
        )


class SecaggSection(Section):
    """Secure aggregation: the server learns the sum of a round's updates, and no client's own.

    Bonawitz et al. 2017 on the complete graph, Bell et al. 2020 on a k-regular one. Who shares secrets with whom,
    and how many shares open one, follow from what is assumed here. What a sum says of a client is not bounded by
    this: for that there is differential privacy.
    """

    mode: Literal["real", "ideal"] = "real"
    """`real`: the protocol; `ideal`: the same sum, to the bit, without any protection, for large sweeps."""
    adversary: Literal["semi-honest", "malicious-server"] = "semi-honest"
    """Whether the server follows the protocol, and only looks, or may lie to its clients."""
    corrupt: float = Field(default=0.1, ge=0, lt=1)
    """Largest fraction of a cohort that may share what it sees with the server."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Fraction of a cohort that may be lost in a round without losing the round."""
    graph: Literal["auto", "complete", "k-regular"] = "auto"
    """Who shares secrets with whom: everyone with everyone, or with k others; `auto`: k for large cohorts."""
    minimum: int = Field(default=3, ge=2)
    """Clients in a sum at least."""
    clip: float = Field(default=1.0, ge=1e-12, le=1e12)
    """Largest magnitude of a coordinate of an update; what is beyond is cut. With `dp-fedavg` and `dp-ftrl` at least
    their `clip`, so that nothing is. What `dp-sgd` and `local-dp` send is noised before: cutting it costs accuracy, and
    no privacy (post-processing)."""
    input_bits: int = Field(default=16, ge=2, le=32)
    """Bits of a coordinate, after rounding."""
    max_weight: int | None = Field(default=None, ge=1, lt=2**31)
    """Largest weight of a client, its number of examples; unset: the most that a client has."""


class PrivacySection(Section):
    """The mechanisms: one is on when its table is there."""

    noise: Literal["seeded", "os"] = "seeded"
    """`seeded`: reproducible, for simulation; `os`: the operating system's, which nobody can repeat."""
    arithmetic: Literal["grid", "float32"] = "grid"
    """How noise is added: `grid`: exactly, so that the low bits of a result tell nothing; `float32`: as floating-point
    numbers are added, faster for DP-SGD, in seeded simulations alone: epsilon is then that of ideal real numbers."""
    dp_sgd: DpSgdSection | None = None
    """Example-level: DP-SGD in each client."""
    dp_fedavg: DpFedavgSection | None = None
    """Client-level: a trusted server adds noise."""
    dp_ftrl: DpFtrlSection | None = None
    """Client-level: a trusted server adds noise that is correlated over rounds."""
    local_dp: LocalDpSection | None = None
    """Client-level: each client adds noise, and trusts nobody."""
    secagg: SecaggSection | None = None
    """Secure aggregation: the server sees sums only."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_here_yet(cls, raw: Any) -> Any:
        for name in sorted(raw) if isinstance(raw, Mapping) else ():
            if kebab(str(name)) in NOT_YET:
                raise invalid(
                    name,
                    raw[name],
                    "is not available in this version; allowed: dp-fedavg, dp-ftrl, dp-sgd, local-dp, secagg",
                )
        return raw

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.mechanisms) > 1:
            first, second = self.mechanisms[:2]
            both = "" if first == "dp-sgd" else "two client-level mechanisms at once, and "
            raise invalid(
                second,
                "a table",
                f"can't stand beside {first}: {both}a run has one account; allowed: one of them",
            )
        if self.noise == "os" and not self.releases:
            raise invalid("noise", self.noise, "there is no mechanism that adds noise; allowed: seeded")
        if self.arithmetic != "grid" and not self.releases:
            raise invalid(
                "arithmetic", self.arithmetic, "there is no mechanism that adds noise; allowed: grid"
            )
        if self.arithmetic != "grid" and self.noise == "os":
            raise invalid(
                "arithmetic",
                self.arithmetic,
                "the low bits of what is released would tell what was noised; allowed with privacy.noise = 'os': grid",
            )
        return self

    @property
    def mechanisms(self) -> list[str]:
        """Names of those that add noise."""
        tables = {
            "dp-sgd": self.dp_sgd,
            "dp-fedavg": self.dp_fedavg,
            "dp-ftrl": self.dp_ftrl,
            "local-dp": self.local_dp,
        }
        return [name for name, table in tables.items() if table is not None]

    @property
    def releases(self) -> bool:
        """Whether there is a mechanism that adds noise, and so a ledger."""
        return bool(self.mechanisms)

    @property
    def hides_clients(self) -> bool:
        """Whether the number of clients is protected, and no public constant may be made of it."""
        return self.dp_fedavg is not None and self.dp_fedavg.neighbours is Relation.ADD_OR_REMOVE_ONE

    @property
    def central(self) -> DpFedavgSection | DpFtrlSection | None:
        """The mechanism by which a trusted server noises the sum of clipped updates; None: there is none."""
        return self.dp_fedavg or self.dp_ftrl
