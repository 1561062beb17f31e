"""The table `[server]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fedsim import catalogue
from fedsim.options import Options
from fedsim.privacy.settings import Section, invalid
from fedsim.sections.options import fill, lookup


class ServerSection(Section):
    """Cohorts, aggregation and evaluation."""

    strategy: str = "fedavg"
    """A strategy's name (see `fedsim strategies`) or `"module:callable"`."""
    cohort: int = Field(default=10, ge=1)
    """Clients in a round; with Poisson sampling, their expected number."""
    sampling: str = "fixed"
    """`fixed`: `cohort` clients, without replacement; `poisson`: each client independently; `truncated-poisson`: that,
    truncated to `max-cohort` clients; `b-min-sep`: Poisson sampling from the round's group, for `privacy.dp-ftrl`, with
    `min-separation` groups that take turns; or `"module:callable"`."""
    sampling_options: dict[str, Any] | None = None
    """Arguments of a sampling of your own."""
    schedule: str | None = None
    """Schedule of rounds: `buffered` (FedBuff, in virtual time) or `"module:callable"`; unset: synchronous, the
    server waits for the cohort."""
    schedule_options: dict[str, Any] | None = None
    """The schedule's own arguments."""
    max_cohort: int | None = Field(default=None, ge=1)
    """Most clients in a round, for `truncated-poisson`; unset: five standard deviations above the mean."""
    weighting: Literal["examples", "uniform"] = "examples"
    """Weight of a client in a mean: its number of examples, or the same for all."""
    evaluate_every: int = Field(default=1, ge=1)
    """Rounds between evaluations; the last round is always evaluated."""
    client_evaluation: Literal["none", "cohort", "all"] = "none"
    """Clients that evaluate the new model on their held-out examples, besides the central test set."""
    target: float | None = None
    """Stop when the task's headline metric on the test set is at least this, or at most if lower is better."""
    target_accuracy: float | None = Field(default=None, gt=0, le=1)
    """Stop when the test accuracy is at least this, whatever the headline metric is."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many evaluations without a lower test loss."""
    on_divergence: Literal["stop", "go-on"] = "stop"
    """A round diverges if the test loss, the next model, or what every client sent is NaN or infinite: its row says
    `diverged`, and null for what is not finite. `stop`: the run has failed then; `go-on`: it goes on with the last model
    that is finite."""
    timeout: float = Field(default=600.0, gt=0)
    """Seconds that a round, or a stage of secure aggregation, waits for its clients; late ones have failed."""
    min_clients: int = Field(default=1, ge=1)
    """Online clients that a round needs to begin, and updates that it needs to change the model (except where a trusted
    server adds noise: it releases every round)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The strategy's own arguments."""

    @model_validator(mode="before")
    @classmethod
    def _fill_options(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        filled = dict(raw)
        fill(filled, "options", lookup("strategy", raw.get("strategy", "fedavg"), catalogue.find_strategy))
        lookup("sampling", raw.get("sampling", "fixed"), catalogue.find_sampling)
        if (schedule := raw.get("schedule")) is not None:
            fill(filled, "schedule-options", lookup("schedule", schedule, catalogue.find_round_schedule))
        return filled

    @model_validator(mode="after")
    def _check_cohort(self) -> Self:
        if self.sampling_options is not None and ":" not in self.sampling:
            raise invalid(
                "sampling-options", "a table", f"is for a sampling of your own, not {self.sampling!r}"
            )
        if self.schedule is None and self.schedule_options is not None:
            raise invalid("schedule-options", "a table", "is for a schedule, and none is set")
        if self.schedule is not None and self.sampling != "fixed":
            raise invalid(
                "sampling", self.sampling, "the schedule chooses the clients; allowed with one: fixed"
            )
        least = self.strategy_entry.smallest_cohort(self.strategy_options)
        if self.target is not None and self.target_accuracy is not None:
            raise invalid("target", self.target, "can't stand beside target-accuracy; allowed: one of them")
        if self.max_cohort is not None and self.sampling != "truncated-poisson":
            raise invalid(
                "max-cohort",
                self.max_cohort,
                f"is for sampling = 'truncated-poisson', not {self.sampling!r}",
            )
        if self.max_cohort is not None and self.max_cohort < self.cohort:
            raise invalid("max-cohort", self.max_cohort, f"must be at least the cohort, {self.cohort}")
        if least > 1 and self.sampling != "fixed":
            raise invalid(
                "sampling",
                self.sampling,
                f"can't guarantee the {least} clients that {self.strategy} needs; allowed: fixed",
            )
        if self.cohort < least:
            raise invalid(
                "cohort", self.cohort, f"must be at least {least} for {self.strategy} with these options"
            )
        return self

    @property
    def strategy_entry(self) -> catalogue.StrategyEntry:
        """The strategy's entry in the catalogue."""
        return catalogue.find_strategy(self.strategy)

    @property
    def fixed_cohorts(self) -> bool:
        """Whether `cohort` clients train in each round."""
        return self.sampling == "fixed" and self.schedule is None

    @property
    def schedule_entry(self) -> catalogue.RoundScheduleEntry | None:
        """The schedule's entry in the catalogue; None if rounds are synchronous."""
        return None if self.schedule is None else catalogue.find_round_schedule(self.schedule)

    @property
    def sampling_entry(self) -> catalogue.SamplingEntry:
        """The sampling's entry in the catalogue."""
        return catalogue.find_sampling(self.sampling)

    @property
    def strategy_options(self) -> Options:
        """The strategy's arguments, typed."""
        return self.strategy_entry.options.model_validate(self.options)
