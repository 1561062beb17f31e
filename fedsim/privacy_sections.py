"""The table `[privacy]` of an experiment: which mechanisms are on, and with what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fedsim.complaints import complaint
from fedsim.section import Section, kebab
from fedsim.sections import ClientSection
from privacy.ledger import Relation
from privacy.sampling import Batches

PARTICIPATIONS = "participations"  # the record in a client's state that counts the `rounds` it took part in
NOT_YET = ("audit", "distributed-dp", "dp-fedavg", "dp-ftrl", "local-dp", "secagg")


class DpSgdSection(Section):
    """Example-level differential privacy: each client trains with DP-SGD (Abadi et al. 2016).

    Each step draws the client's records by independent coins, clips each record's gradient, and adds Gaussian
    noise to the sum. Protected is one record of one client; how many records a client has is public.
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
    """Records in a step at most: of more, a random subset stays (truncated Poisson sampling)."""
    relation: Literal["zero-out", "add-or-remove-one"] = "zero-out"
    """Neighbouring data: one record without effect, or one record more, which needs a public `rate`."""
    kernel: Literal["auto", "opacus", "fast", "compiled"] = "auto"
    """How gradients are computed: `opacus` by its hooks, `fast` by ours, `compiled` by torch.compile."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.epsilon is not None and self.noise_multiplier is not None:
            raise complaint(
                "noise-multiplier", self.noise_multiplier, "can't stand beside epsilon; allowed: one of them"
            )
        if self.epsilon is None and self.noise_multiplier is None:
            raise complaint("epsilon", None, "this or noise-multiplier must be set")
        if self.adversary == "released-models" and self.max_participations is not None:
            raise complaint(
                "max-participations",
                self.max_participations,
                "a client that stops after a budget is not sampled by coins alone, so there is no theorem for "
                "adversary = 'released-models'; allowed: 'known-cohort'",
            )
        if self.kernel == "compiled" and self.max_batch is None:
            raise complaint("kernel", self.kernel, "needs max-batch: compiled code has one shape of a batch")
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


class PrivacySection(Section):
    """The mechanisms: one is on when its table is there."""

    noise: Literal["seeded", "os"] = "seeded"
    """`seeded`: reproducible, for simulation; `os`: the operating system's, which nobody can repeat."""
    dp_sgd: DpSgdSection | None = None
    """Example-level: DP-SGD in each client."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_here_yet(cls, raw: Any) -> Any:
        for name in sorted(raw) if isinstance(raw, Mapping) else ():
            if kebab(str(name)) in NOT_YET:
                raise complaint(name, raw[name], "is not available in this version; allowed: dp-sgd")
        return raw

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.noise == "os" and self.dp_sgd is None:
            raise complaint("noise", self.noise, "there is no mechanism that adds noise; allowed: seeded")
        return self
