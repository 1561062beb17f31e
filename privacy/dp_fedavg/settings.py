"""The table `[privacy.dp-fedavg]`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedsim.privacy.events import Relation
from fedsim.privacy.settings import ClipNorm, NoiseMultiplier, Section, check_one_of, invalid, kebab


class AdaptiveSettings(Section):
    """Adaptive clipping: the clip norm follows a quantile of the updates' norms (Andrew et al. 2021).

    Each client also reports whether its norm was below, in a noised sum; both share the budget.
    """

    quantile: float = Field(default=0.5, gt=0, lt=1)
    """Fraction of the clients with updates below the clip norm, as a target."""
    rate: float = Field(default=0.2, gt=0)
    """How fast it follows: eta of `C <- C exp(-eta (part below - quantile))`."""
    bit_noise: float | None = Field(default=None, gt=0)
    """Standard deviation of the noise on the number of clients below; unset: a twentieth of the cohort."""


class ReleasedMetricSettings(Section):
    """A number that clients report of their training; its mean is released, noised within the same budget.

    A client clips it to [0, `bound`], and moves the sum by at most half of that; NaN, and an absent client, count as
    half. It costs no epsilon: the update gets more noise instead. The estimate is unbiased for values within the
    bound, with noise of standard deviation `noise * bound / 2 / cohort`.
    """

    bound: float = Field(ge=1e-9, le=1e9)
    """Largest value that counts: a little above usual values, since the noise grows with it. For a loss over k
    classes, about 2 ln k, twice that of guessing (5 for ten digits, 10 for characters of text)."""
    noise: float | None = Field(default=None, gt=0)
    """Standard deviation of the noise on the sum, in units of `bound / 2`; unset: a tenth of the cohort (so that the
    noise on the mean is a twentieth of `bound`). Must exceed the noise multiplier, to leave budget for the update."""


class ReleaseSettings(Section):
    """Metrics of the clients to release: those whose tables are given.

    Others are for the experimenter only, and not sent if noise is the operating system's.
    """

    train_loss: ReleasedMetricSettings | None = None
    """Mean loss over a client's steps, in the unit of the task's loss: for labels, nats."""
    num_examples: ReleasedMetricSettings | None = None
    """Training examples of a client."""


class DpFedAvgSettings(Section):
    """Client-level differential privacy by a trusted server (McMahan et al. 2018).

    Each client's update is clipped jointly over all its arrays, with equal weights; the server adds Gaussian noise to
    their sum and divides by the expected cohort. This protects all data of a client against everyone who sees the
    models; the server sees the sums before the noise, and is trusted.
    """

    epsilon: float | None = Field(default=None, gt=0)
    """Privacy loss against `adversary`; determines the noise. Either this or `noise-multiplier`."""
    noise_multiplier: NoiseMultiplier | None = None
    """Standard deviation of the noise on the sum of the clipped updates, in units of `clip`; with `adaptive` or
    `release`, that of one sum with the joint cost of all: the update's own is larger."""
    delta: float = Field(gt=0, lt=1)
    """Probability that epsilon does not hold: below 1 / clients; with a declared `rate`, below `rate` / cohort."""
    clip: ClipNorm
    """Largest L2 norm of an update; with `adaptive`, in the first round. With secure aggregation, at most
    `privacy.secagg.clip`, which also limits the adaptive norm."""
    adversary: Literal["released-models", "known-cohort"] = "released-models"
    """Adversary that `epsilon` holds against: sees the models only, or also knows who takes part."""
    relation: Literal["zero-out", "add-or-remove-one"] = "zero-out"
    """Neighbouring data: one client without effect, the number of clients being public; or one client more, which
    protects that number, and needs a declared `rate` and `server.sampling = "poisson"`."""
    rate: float | None = Field(default=None, gt=0, le=1)
    """Declared probability with which each client is drawn for a round, independent of the number of clients. For
    `add-or-remove-one`; the mean is then over `server.cohort`, about `rate` times the clients that you expect."""
    adaptive: AdaptiveSettings | None = None
    """The clip norm follows the updates."""
    release: ReleaseSettings | None = None
    """Metrics of the clients to release with the update."""
    population: int | None = Field(default=None, ge=1)
    """Clients of a deployment that this simulation represents: its epsilon is shown beside the simulation's."""
    population_cohort: int | None = Field(default=None, ge=1)
    """The deployment's expected cohort, with the noise on the mean as it is here."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_one_of(self.epsilon, self.noise_multiplier)
        if (self.population is None) != (self.population_cohort is None):
            raise invalid("population", self.population, "goes with population-cohort, and only with it")
        if (self.population_cohort or 0) > (self.population or 0):
            raise invalid(
                "population-cohort",
                self.population_cohort,
                f"must be at most the population, {self.population}",
            )
        self._check_rate()
        return self

    def _check_rate(self) -> None:
        """Refuse a client rate derived from a protected number of clients, and a second rate beside the public one."""
        if self.neighbours is Relation.ADD_OR_REMOVE_ONE and self.rate is None:
            raise invalid(
                "relation",
                self.relation,
                "needs a declared rate: server.cohort / clients depends on the protected number of clients; "
                "allowed: privacy.dp-fedavg.rate, or relation = 'zero-out'",
            )
        if self.neighbours is Relation.ZERO_OUT and self.rate is not None:
            raise invalid(
                "rate",
                self.rate,
                "is for relation = 'add-or-remove-one'; under 'zero-out' the number of clients is public, and the rate "
                "is server.cohort / clients",
            )

    @property
    def neighbours(self) -> Relation:
        """Which data sets are neighbours."""
        return Relation(self.relation)

    @property
    def released(self) -> dict[str, ReleasedMetricSettings]:
        """Released metrics, by their names in a train reply, in order."""
        if self.release is None:
            return {}
        tables = {name: getattr(self.release, name) for name in sorted(ReleaseSettings.model_fields)}
        return {kebab(name): table for name, table in tables.items() if table is not None}
