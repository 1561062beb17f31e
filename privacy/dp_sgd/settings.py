"""The table `[privacy.dp-sgd]`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedsim.privacy.dp_sgd.release import Batches, DpSgdEvent
from fedsim.privacy.events import Noise, Relation, Unit
from fedsim.privacy.settings import ClipNorm, NoiseMultiplier, Section, check_one_of, invalid
from fedsim.privacy.training import LocalWork


class DpSgdSettings(Section):
    """Example-level differential privacy: each client trains with DP-SGD (Abadi et al. 2016).

    Each step draws the client's records by Poisson sampling, clips each record's gradient, and adds Gaussian noise to
    the sum. This protects one record of one client. A client's number of records is public under zero-out, and
    protected under add-or-remove-one: then neither the ledger nor the manifest contains it.
    """

    epsilon: float | None = Field(default=None, gt=0)
    """Privacy loss against `adversary`; determines the noise. Either this or `noise-multiplier`."""
    noise_multiplier: NoiseMultiplier | None = None
    """Standard deviation of the noise on the sum of the clipped gradients, in units of `clip`."""
    delta: float = Field(gt=0, lt=1)
    """Probability that epsilon does not hold: below 1 / (records of all clients)."""
    clip: ClipNorm = 1.0
    """Largest L2 norm of a record's gradient."""
    adversary: Literal["known-cohort", "released-models"] = "known-cohort"
    """Adversary that `epsilon` holds against: sees clients' updates, as the server does, or the global models only."""
    max_participations: int | None = Field(default=None, ge=1)
    """Most rounds in which a client takes part; it refuses more. Unset: every round."""
    rate: float | None = Field(default=None, gt=0, le=1)
    """Sampling probability of a record; unset: `client.batch-size` / the client's records."""
    max_batch: int | None = Field(default=None, ge=1)
    """Most records in a step; a larger batch is cut to a random subset (truncated Poisson sampling; zero-out only)."""
    relation: Literal["zero-out", "add-or-remove-one"] = "zero-out"
    """Neighbouring data: one record without effect, or one record more, which needs a public `rate`, `client.steps`
    and equal weights."""
    kernel: Literal["auto", "opacus", "fast", "compiled"] = "auto"
    """How gradients are computed: `opacus` by Opacus' hooks, `fast` by fedsim's own, `compiled` by torch.compile."""

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
                "truncated batches depend on the number of records, which relation = "
                "'add-or-remove-one' protects; allowed with it: none, or relation = 'zero-out'",
            )
        if self.kernel == "compiled" and self.max_batch is None:
            raise invalid("kernel", self.kernel, "needs max-batch: compiled code has one shape of a batch")
        return self

    @property
    def neighbours(self) -> Relation:
        """Which data sets are neighbours."""
        return Relation(self.relation)

    def batches(self, work: LocalWork, records: int) -> Batches:
        """Return the batches of a client with this number of records."""
        return Batches.of(
            records,
            work.batch_size,
            epochs=work.epochs,
            steps=work.steps,
            rate=self.rate,
            max_batch=self.max_batch,
        )

    def planned_event(
        self, batches: Batches, noise_multiplier: float, noise: Noise, *, round_: int, client: int
    ) -> DpSgdEvent:
        """Return the event of all steps of a client's round, without a protected number of records.

        Raises `ValueError` if a neighbouring data set changes public values.
        """
        if self.neighbours is Relation.ADD_OR_REMOVE_ONE and not batches.declared:
            raise ValueError(
                f"relation = {self.relation}: the number of records is protected, and rate, steps or denominator depend "
                f"on it; allowed: a declared rate and number of steps, or {Relation.ZERO_OUT}"
            )
        return DpSgdEvent(
            mechanism="dp-sgd",
            round=round_,
            client=client,
            unit=Unit.EXAMPLE,
            relation=self.neighbours,
            sensitivity=self.clip,
            noise_multiplier=noise_multiplier,
            sampling=batches.sampling,
            rate=batches.rate,
            max_batch=batches.max_batch,
            records=batches.records if self.neighbours is Relation.ZERO_OUT else None,
            steps=batches.steps,
            noise=noise,
        )
