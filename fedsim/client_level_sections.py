"""Client-level mechanisms of an experiment: the tables under `[privacy]` that protect a whole client."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedsim.privacy.events import Relation
from fedsim.privacy.settings import Section, kebab
from fedsim.privacy.validation import check_one_of, invalid


class AdaptiveSection(Section):
    """Adaptive clipping: the clip norm follows a quantile of the updates' norms (Andrew et al. 2021).

    Each client also says, noised in the sum, whether its norm was below; the budget is split between the two.
    """

    quantile: float = Field(default=0.5, gt=0, lt=1)
    """Part of the clients whose updates are to be below the clip norm."""
    rate: float = Field(default=0.2, gt=0)
    """How fast it follows: eta of `C <- C exp(-eta (part below - quantile))`."""
    bit_noise: float | None = Field(default=None, gt=0)
    """Standard deviation of the noise on the number of clients below; unset: a twentieth of the cohort."""


class ReleasedMetricSection(Section):
    """A number that clients say of their training, whose mean is released, noised within the same budget.

    A client clips it to [0, `bound`], and moves the sum by at most half of that; NaN, and a client that is not there,
    count as half. It costs no epsilon: the update gets more noise instead. What is released is unbiased for values
    within the bound, and has noise of `noise * bound / 2 / cohort`.
    """

    bound: float = Field(ge=1e-9, le=1e9)
    """Largest value that counts: a little above what is usual, for the noise grows with it. Of a loss over k classes,
    about 2 ln k, twice that of a guess (5 for ten digits, 10 for characters of text)."""
    noise: float | None = Field(default=None, gt=0)
    """Standard deviation of the noise on the sum, in units of `bound / 2`; unset: a tenth of the cohort (so that the
    noise on the mean is a twentieth of `bound`). Above the noise multiplier, or nothing is left for the update."""


class ReleaseSection(Section):
    """Metrics of the clients that are released, each where its table is there.

    Those that aren't are the experimenter's view, and not sent where noise is the operating system's.
    """

    train_loss: ReleasedMetricSection | None = None
    """Mean loss over a client's steps, in the unit of the task's loss: for labels, nats."""
    num_examples: ReleasedMetricSection | None = None
    """Training examples of a client."""


class DpFedavgSection(Section):
    """Client-level differential privacy by a trusted server (McMahan et al. 2018).

    Each client's update is clipped, over all its arrays together; all weigh the same; the server adds Gaussian
    noise to their sum and divides by the expected cohort. Protected is all of one client's data, against whoever sees
    the models; the server sees the sums before the noise, and is trusted.
    """

    epsilon: float | None = Field(default=None, gt=0)
    """What `adversary` may learn at most; the noise follows from it. Either this or `noise-multiplier`."""
    noise_multiplier: float | None = Field(default=None, gt=0)
    """Standard deviation of the noise on the sum of the clipped updates, in units of `clip`; with `adaptive` or
    `release`, that of one sum that costs what all cost together: the update's own is more."""
    delta: float = Field(gt=0, lt=1)
    """Probability that epsilon does not hold: below 1 / clients; with a declared `rate`, below `rate` / cohort."""
    clip: float = Field(gt=0)
    """L2 norm that an update has at most; with `adaptive`, in the first round. With secure aggregation, at most
    `privacy.secagg.clip`, which the adaptive norm doesn't grow beyond either."""
    adversary: Literal["released-models", "known-cohort"] = "released-models"
    """Whom `epsilon` is meant for: who sees the models and not who takes part, or who knows that too."""
    relation: Literal["zero-out", "add-or-remove-one"] = "zero-out"
    """Neighbouring data: one client without effect, the number of clients being public; or one client more, which
    protects that number, and needs a declared `rate` and `server.sampling = "poisson"`."""
    rate: float | None = Field(default=None, gt=0, le=1)
    """Probability with which each client is drawn for a round: a constant of its own, whatever the number of clients.
    For `add-or-remove-one`; the mean is then over `server.cohort`, about `rate` times the clients that you expect."""
    adaptive: AdaptiveSection | None = None
    """The clip norm follows the updates."""
    release: ReleaseSection | None = None
    """Metrics of the clients that are released beside the update."""
    population: int | None = Field(default=None, ge=1)
    """Clients of a deployment that this stands for: its epsilon is told beside the simulation's, never instead."""
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
        """Refuse a client rate that is made of a number that is protected, and a second one beside the public one's."""
        if self.neighbours is Relation.ADD_OR_REMOVE_ONE and self.rate is None:
            raise invalid(
                "relation",
                self.relation,
                "needs a rate that is declared: server.cohort / clients would change with the clients, whose number is "
                "protected; allowed: privacy.dp-fedavg.rate beside it, or relation = 'zero-out'",
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
    def released(self) -> dict[str, ReleasedMetricSection]:
        """The metrics that are released, by their names in a train reply, in order."""
        if self.release is None:
            return {}
        tables = {name: getattr(self.release, name) for name in sorted(ReleaseSection.model_fields)}
        return {kebab(name): table for name, table in tables.items() if table is not None}


class LocalDpSection(Section):
    """Local client-level differential privacy: each client clips and noises its own update, and trusts nobody.

    Protected is all of one client's data, against everybody, the server too; two updates are neighbours whatever they
    are, so that the noise is made for twice `clip`. That a client takes part is not hidden, so its being drawn by
    chance counts for nothing; epsilon is composed over the rounds that it takes part in. No metric of a client is
    released: its losses are the experimenter's view, which only runs with seeded noise have.
    """

    epsilon: float | None = Field(default=None, gt=0)
    """What anybody may learn at most; the noise follows from it. Either this or `noise-multiplier`."""
    noise_multiplier: float | None = Field(default=None, gt=0)
    """Scale of the noise on each number (standard deviation, or Laplace's mean absolute value) over twice `clip`."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """Probability that epsilon does not hold: below 1 / clients; with Laplace noise there is none."""
    clip: float = Field(gt=0)
    """Norm that an update has at most: L2 for Gaussian noise, L1 for Laplace's."""
    law: Literal["gaussian", "laplace"] = "gaussian"
    """What the noise is distributed as."""
    max_participations: int | None = Field(default=None, ge=1)
    """Rounds that a client takes part in at most; it refuses more. Unset: every round."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_one_of(self.epsilon, self.noise_multiplier)
        if self.law == "gaussian" and self.delta is None:
            raise invalid("delta", None, "must be set: Gaussian noise keeps no epsilon for certain")
        if self.law == "laplace" and self.delta is not None:
            raise invalid("delta", self.delta, "is for law = 'gaussian'; Laplace noise needs none")
        return self

    def participations(self, rounds: int) -> int:
        """Return how many of a run's rounds a client takes part in at most."""
        return min(self.max_participations or rounds, rounds)

    def calibrated(self, rounds: int) -> float:
        """Return the noise multiplier: given, or the least that keeps epsilon over a run's participations.

        Server and clients come to the same number by themselves, for a client takes nobody's word for it.

        Raises:
            ValueError: No noise reaches the epsilon.
        """
        from fedsim.privacy.local_dp import (
            accounting as local,  # loads dp_accounting's parts where it calibrates
        )

        if self.noise_multiplier is not None:
            return self.noise_multiplier
        if self.epsilon is None:
            raise TypeError("neither epsilon nor noise-multiplier is set")
        times = self.participations(rounds)
        if self.delta is None:
            return local.laplace_noise(self.epsilon, times)
        return local.gaussian_noise(self.epsilon, times, self.delta)


class DpFtrlSection(Section):
    """Client-level differential privacy by a trusted server with correlated noise (Denisov et al. 2022).

    Clients clip as with `dp-fedavg`; the noise of a round takes back part of that of rounds before, so that models,
    which are sums over rounds, have less of it. Privacy rests on how often and how far apart a client takes part,
    which `server.sampling = "b-min-sep"` keeps to, and not on secret cohorts. Neighbouring data: one client
    without effect (zero-out). The server sees the sums before the noise, and is trusted. No metric of a client is
    released: its losses are the experimenter's view, which only runs with seeded noise have.
    """

    epsilon: float | None = Field(default=None, gt=0)
    """What `adversary` may learn at most; the noise follows from it. Either this or `noise-multiplier`."""
    noise_multiplier: float | None = Field(default=None, gt=0)
    """Standard deviation of the noise before it is correlated, in units of `clip` times the sensitivity: to all of a
    client's participations; for `released-models`, to one (as `fedsim budget dp-ftrl` has it)."""
    delta: float = Field(gt=0, lt=1)
    """Probability that epsilon does not hold: below 1 / clients."""
    clip: float = Field(gt=0)
    """L2 norm that an update has at most, in all rounds."""
    mechanism: Literal["banded", "blt", "sqrt-toeplitz"] = "banded"
    """What correlates the noise: an optimised matrix of few bands, one of few buffers, or the square root of the sums."""
    min_separation: int = Field(ge=1)
    """A client takes part at most once in so many rounds."""
    bands: int | None = Field(default=None, ge=1)
    """Of `banded`, at most `min-separation`; unset: as many; 1 is independent noise."""
    buffers: int | None = Field(default=None, ge=1, le=8)
    """Of `blt`: vectors in memory; unset: 3."""
    max_participations: int | None = Field(default=None, ge=1)
    """Rounds that a client takes part in at most, after which it is not drawn; unset: as the separation leaves."""
    adversary: Literal["known-cohort", "released-models"] = "known-cohort"
    """Whom `epsilon` is meant for: who knows who takes part, or who sees the models alone (`banded` only)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_one_of(self.epsilon, self.noise_multiplier)
        for name, value, mechanism in (("bands", self.bands, "banded"), ("buffers", self.buffers, "blt")):
            if value is not None and self.mechanism != mechanism:
                raise invalid(name, value, f"is for mechanism = {mechanism!r}, not {self.mechanism!r}")
        if (self.bands or 1) > self.min_separation:
            raise invalid(
                "bands",
                self.bands,
                f"must be at most min-separation, {self.min_separation}: a client's participations would overlap",
            )
        if self.adversary == "released-models":
            self._check_amplified()
        return self

    def _check_amplified(self) -> None:
        """Refuse what secret cohorts have no theorem for."""
        if self.mechanism != "banded":
            raise invalid(
                "adversary",
                self.adversary,
                f"needs mechanism = 'banded', not {self.mechanism!r}: secret cohorts have a theorem for bands alone",
            )
        if self.max_participations is not None:
            raise invalid(
                "max-participations",
                self.max_participations,
                "a client that stops after some rounds is not drawn by independent coins, so there is no theorem for "
                "adversary = 'released-models'; allowed: 'known-cohort'",
            )

    @property
    def neighbours(self) -> Relation:
        """Which data sets are neighbours."""
        return Relation.ZERO_OUT
