"""The table `[client]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from fedsim import catalogue
from fedsim.catalogue import OPTIMIZERS, SCHEDULES, find_optimizer, find_schedule
from fedsim.options import keywords, snake
from fedsim.privacy.settings import Section, invalid, kebab
from fedsim.privacy.training import LocalWork
from fedsim.sections.options import fill, lookup


class ClientSection(Section):
    """Local training: steps of an optimizer, which starts anew each round."""

    epochs: int = Field(default=1, ge=1)
    """Passes over the client's examples in a round."""
    steps: int | None = Field(default=None, ge=1)
    """Steps of the optimizer in a round, instead of `epochs`."""
    batch_size: int = Field(default=10, ge=1)
    """Examples in a step; the last batch of a pass may be smaller."""
    learning_rate: float = Field(default=0.1, gt=0, le=1e38)
    """Initial learning rate of the schedule."""
    learning_rate_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on the rate after each round; for the schedule `exponential`."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of SGD, reset each round; for the optimizer `sgd`."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty of `sgd` and `adam`; decoupled with `adamw`. An optimizer of your own has `optimizer-options`."""
    proximal_mu: float = Field(default=0.0, ge=0)
    """Proximal term mu/2 ||w - w_t||^2 to the received model (Li et al. 2020); `fedprox` sets its own."""
    optimizer: str | None = None
    """An optimizer's name (see `fedsim optimizers`) or `"module:callable"`; unset: `sgd`."""
    optimizer_options: dict[str, Any] | None = None
    """The optimizer's own arguments."""
    schedule: str | None = None
    """A schedule's name (see `fedsim optimizers`) or `"module:callable"`; unset: `exponential`, which is constant
    if `learning-rate-decay` is 1."""
    schedule_options: dict[str, Any] | None = None
    """The schedule's own arguments."""
    warmup_rounds: int | None = Field(default=None, ge=1)
    """Rounds over which the rate rises linearly before the schedule begins; unset: none."""

    @model_validator(mode="before")
    @classmethod
    def _fill_options(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        filled = {kebab(str(key)): value for key, value in raw.items()}
        for key, default, find in (
            ("optimizer", "sgd", find_optimizer),
            ("schedule", "exponential", find_schedule),
        ):
            name, where = filled.get(key), f"{key}-options"
            if filled.get(where) is None:
                filled.pop(where, None)
            if name is not None or where in filled:
                fill(filled, where, lookup(key, default if name is None else name, find))
        return filled

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        """Refuse keys that the optimizer or the schedule doesn't use."""
        for what, entry, entries in (
            ("optimizer", self.optimizer_entry, OPTIMIZERS),
            ("schedule", self.schedule_entry, SCHEDULES),
        ):
            for key in sorted({key for other in entries.values() for key in other.beside}):
                value, unused = getattr(self, snake(key)), type(self).model_fields[snake(key)].default
                if value != unused and key not in entry.beside:
                    users = ", ".join(other.name for other in entries.values() if key in other.beside)
                    raise invalid(key, value, f"is for {what} {users}, not {entry.name!r}")
        if self.schedule == "exponential" and self.learning_rate_decay == 1:
            raise invalid("schedule", self.schedule, "needs learning-rate-decay below 1")
        return self

    @property
    def optimizer_entry(self) -> catalogue.OptimizerEntry:
        """The optimizer's entry in the catalogue."""
        return find_optimizer("sgd" if self.optimizer is None else self.optimizer)

    @property
    def optimizer_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the optimizer, without parameters and rate."""
        return self._arguments(self.optimizer_options, self.optimizer_entry.beside)

    @property
    def schedule_entry(self) -> catalogue.ScheduleEntry:
        """The schedule's entry in the catalogue."""
        return find_schedule("exponential" if self.schedule is None else self.schedule)

    @property
    def schedule_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the schedule, without `round` and `rounds`."""
        return self._arguments(self.schedule_options, self.schedule_entry.beside)

    def _arguments(self, options: Mapping[str, Any] | None, beside: Iterable[str]) -> dict[str, Any]:
        return keywords(options or {}) | {name: getattr(self, name) for name in map(snake, sorted(beside))}

    @property
    def work(self) -> LocalWork:
        """A client's local work in a round, for accounting."""
        return LocalWork(batch_size=self.batch_size, epochs=self.epochs, steps=self.steps)
