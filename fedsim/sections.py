"""The tables of an experiment: data, task, model, algorithm, transforms, client, server, faults, runtime.

Each is frozen and checks itself; `fedsim.checks` checks combinations of tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from fedsim import catalogue
from fedsim.catalogue import (
    OPTIMIZERS,
    SCHEDULES,
    AnyEntry,
    OptimizerEntry,
    ScheduleEntry,
    find_optimizer,
    find_schedule,
    option_keys,
)
from fedsim.errors import Refused
from fedsim.options import FreeOptions, Options
from fedsim.privacy.intent import LocalWork
from fedsim.privacy.settings import Section, kebab
from fedsim.privacy.validation import at_path, invalid


class _WithOptions(Section):
    """A table with the options of its catalogue entries beside its own keys; `pick` returns them typed."""

    model_config = ConfigDict(extra="allow")

    @classmethod
    def _entries(cls, raw: Mapping[str, Any]) -> list[catalogue.Entry]:
        """Return the entries with options in this table."""
        raise TypeError(f"{cls.__name__} names no entries")

    @model_validator(mode="before")
    @classmethod
    def _fill_options(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        extra = {kebab(str(key)): value for key, value in raw.items()}
        own = {kebab(name) for name in cls.model_fields}
        filled = {key: extra.pop(key) for key in own & set(extra)}
        entries = sorted(cls._entries(filled), key=_is_free)  # the user's own takes the rest
        if not entries:
            return raw  # the name is missing: the type check reports it
        for entry in entries:
            keys = set(extra) if issubclass(entry.options, FreeOptions) else option_keys(entry) & set(extra)
            mine = {key: extra.pop(key) for key in sorted(keys)}
            filled |= entry.options.model_validate(mine).model_dump(by_alias=True)
        for key, value in extra.items():
            allowed = own.union(*map(option_keys, entries))
            names = ", ".join(repr(entry.name) for entry in entries)
            raise invalid(key, value, f"is no key here with {names}; allowed: {', '.join(sorted(allowed))}")
        return filled

    def pick(self, entry: catalogue.Entry) -> Options:
        """Return the options of one entry, typed."""
        extra = self.model_extra or {}
        keys = option_keys(entry)
        if _is_free(entry):
            named = {
                key: getattr(self, key.replace("-", "_"))
                for key in ("source", "partition", "name")
                if hasattr(self, key)
            }
            keys = set(extra).difference(*(option_keys(e) for e in self._entries(named) if not _is_free(e)))
        return entry.options.model_validate({key: extra[key] for key in keys})


def _is_free(entry: catalogue.Entry) -> bool:
    """Return whether an entry takes any options, as the user's own does."""
    return issubclass(entry.options, FreeOptions)


def _lookup(key: str, name: Any, find: Callable[[str], AnyEntry]) -> list[AnyEntry]:
    """Return the entry of a name; none if it is not a string, which the type check reports."""
    if not isinstance(name, str):
        return []
    try:
        return [find(name)]
    except Refused as refused:
        raise invalid(key, name, str(refused)) from None


def _fill(raw: dict[str, Any], where: str, entries: Iterable[catalogue.Entry]) -> None:
    """Check the options of an entry in the table `where`, and fill in their defaults, in place."""
    given = raw.get(where, {})
    if not isinstance(given, Mapping):
        return
    for entry in entries:
        allowed = option_keys(entry)
        with at_path(where):
            for key, value in given.items():
                if kebab(str(key)) not in allowed and not issubclass(entry.options, FreeOptions):
                    keys = ", ".join(sorted(allowed)) or "none"
                    raise invalid(str(key), value, f"is no key here with {entry.name!r}; allowed: {keys}")
            raw[where] = entry.options.model_validate(dict(given)).model_dump(by_alias=True)


class DataSection(_WithOptions):
    """Data source, and its partition over clients."""

    source: str = "digits"
    """A source's name (see `fedsim data`) or `"module:callable"`."""
    clients: int | None = Field(default=None, ge=1)
    """Number of clients; unset: every user with a partition by user, else one for each of `sizes`, else 50."""
    partition: str = "dirichlet"
    """A partition's name: see `fedsim data`."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Share of each client's examples that is held out for its evaluation."""

    @classmethod
    def _entries(cls, raw: Mapping[str, Any]) -> list[catalogue.Entry]:
        return [
            *_lookup("source", raw.get("source", "digits"), catalogue.find_source),
            *_lookup("partition", raw.get("partition", "dirichlet"), catalogue.find_partition),
        ]

    @model_validator(mode="before")
    @classmethod
    def _fill_clients(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping) or "clients" in raw:
            return raw
        found = _lookup("partition", raw.get("partition", "dirichlet"), catalogue.find_partition)
        if not found or found[0].by_user:
            return raw
        sizes = raw.get("sizes")
        return {**raw, "clients": len(sizes) if isinstance(sizes, list) else 50}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.partition_entry.by_user and not self.source_entry.has_users:
            with_users = ", ".join(name for name, entry in catalogue.SOURCES.items() if entry.has_users)
            raise invalid(
                "partition",
                self.partition,
                f"needs a source whose examples belong to users ({with_users}), not {self.source!r}",
            )
        if self.partition == "grouped-natural" and self.clients is not None:
            raise invalid("clients", self.clients, "is not for grouped-natural, which uses group-size")
        sizes = (self.model_extra or {}).get("sizes")
        if sizes is not None and self.clients is not None and len(sizes) != self.clients:
            raise invalid(
                "sizes", f"{len(sizes)} sizes", f"must be one size for each of the {self.clients} clients"
            )
        return self

    @property
    def source_entry(self) -> catalogue.SourceEntry:
        """The source's entry in the catalogue."""
        return catalogue.find_source(self.source)

    @property
    def partition_entry(self) -> catalogue.PartitionEntry:
        """The partition's entry in the catalogue."""
        return catalogue.find_partition(self.partition)


class TaskSection(_WithOptions):
    """The learning task. Without this table: the source's default."""

    name: str
    """A task's name (see `fedsim tasks`) or `"module:callable"`."""

    @classmethod
    def _entries(cls, raw: Mapping[str, Any]) -> list[catalogue.Entry]:
        return list(_lookup("name", raw.get("name"), catalogue.find_task))

    @property
    def entry(self) -> catalogue.TaskEntry:
        """The task's entry in the catalogue."""
        return catalogue.find_task(self.name)


class ModelSection(_WithOptions):
    """The model that every client trains."""

    name: str = "cnn"
    """A model's name (see `fedsim models`) or `"module:callable"`."""
    classes: int | None = Field(default=None, ge=2)
    """Number of labels; unset: the data's."""

    @classmethod
    def _entries(cls, raw: Mapping[str, Any]) -> list[catalogue.Entry]:
        return list(_lookup("name", raw.get("name", "cnn"), catalogue.find_model))

    @property
    def entry(self) -> catalogue.ModelEntry:
        """The model's entry in the catalogue."""
        return catalogue.find_model(self.name)


class AlgorithmSection(_WithOptions):
    """The federated learning algorithm. Without this table: FedAvg."""

    name: str
    """An algorithm's name (see `fedsim algorithms`) or `"module:callable"`."""

    @classmethod
    def _entries(cls, raw: Mapping[str, Any]) -> list[catalogue.Entry]:
        return list(_lookup("name", raw.get("name"), catalogue.find_algorithm))

    @property
    def entry(self) -> catalogue.AlgorithmEntry:
        """The algorithm's entry in the catalogue."""
        return catalogue.find_algorithm(self.name)


class TransformSection(_WithOptions):
    """One transform of a client's update, after its training and before its privacy mechanism."""

    name: str
    """A transform's name (see `fedsim transforms`) or `"module:callable"`."""

    @classmethod
    def _entries(cls, raw: Mapping[str, Any]) -> list[catalogue.Entry]:
        return list(_lookup("name", raw.get("name"), catalogue.find_transform))

    @property
    def entry(self) -> catalogue.TransformEntry:
        """The transform's entry in the catalogue."""
        return catalogue.find_transform(self.name)

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the transform."""
        options = self.pick(self.entry).model_dump(by_alias=True)
        return {key.replace("-", "_"): value for key, value in options.items()}


class ClientSection(Section):
    """Local training: steps of an optimizer, which starts anew each round."""

    epochs: int = Field(default=1, ge=1)
    """Passes over the client's examples in a round."""
    steps: int | None = Field(default=None, ge=1)
    """Steps of the optimizer in a round, instead of `epochs`."""
    batch_size: int = Field(default=10, ge=1)
    """Examples in a step; the last batch of a pass may be smaller."""
    learning_rate: float = Field(default=0.1, gt=0)
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
                _fill(filled, where, _lookup(key, default if name is None else name, find))
        return filled

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        """Refuse keys that the optimizer or the schedule doesn't use."""
        for what, entry, entries in (
            ("optimizer", self.optimizer_entry, OPTIMIZERS),
            ("schedule", self.schedule_entry, SCHEDULES),
        ):
            for key in sorted({key for other in entries.values() for key in other.beside}):
                name = key.replace("-", "_")
                value, unused = getattr(self, name), type(self).model_fields[name].default
                if value != unused and key not in entry.beside:
                    users = ", ".join(other.name for other in entries.values() if key in other.beside)
                    raise invalid(key, value, f"is for {what} {users}, not {entry.name!r}")
        if self.schedule == "exponential" and self.learning_rate_decay == 1:
            raise invalid("schedule", self.schedule, "needs learning-rate-decay below 1")
        return self

    @property
    def optimizer_entry(self) -> OptimizerEntry:
        """The optimizer's entry in the catalogue."""
        return find_optimizer("sgd" if self.optimizer is None else self.optimizer)

    @property
    def optimizer_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the optimizer, without parameters and rate."""
        return self._arguments(self.optimizer_options, self.optimizer_entry.beside)

    @property
    def schedule_entry(self) -> ScheduleEntry:
        """The schedule's entry in the catalogue."""
        return find_schedule("exponential" if self.schedule is None else self.schedule)

    @property
    def schedule_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the schedule, without `round` and `rounds`."""
        return self._arguments(self.schedule_options, self.schedule_entry.beside)

    def _arguments(self, options: Mapping[str, Any] | None, own_keys: Iterable[str]) -> dict[str, Any]:
        arguments = {key.replace("-", "_"): value for key, value in (options or {}).items()}
        names = [key.replace("-", "_") for key in sorted(own_keys)]
        return arguments | {name: getattr(self, name) for name in names}

    @property
    def work(self) -> LocalWork:
        """A client's local work in a round, for accounting."""
        return LocalWork(batch_size=self.batch_size, epochs=self.epochs, steps=self.steps)


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
        _fill(filled, "options", _lookup("strategy", raw.get("strategy", "fedavg"), catalogue.find_strategy))
        _lookup("sampling", raw.get("sampling", "fixed"), catalogue.find_sampling)
        if (schedule := raw.get("schedule")) is not None:
            _fill(filled, "schedule-options", _lookup("schedule", schedule, catalogue.find_round_schedule))
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


class FaultsSection(Section):
    """Injected faults: a drawn client has at most one of these in a round.

    Faults depend on seed, round and client, so runs with faults are reproducible. Each counts as a failure of the
    round, with its reason; the round continues with the other clients. With secure aggregation a client is lost at a
    random stage; if it is lost after its upload, its update is in the sum.
    """

    dropout: float = Field(default=0.0, ge=0, le=1)
    """Probability that a client neither trains nor answers."""
    crash: float = Field(default=0.0, ge=0, le=1)
    """Probability that a client raises an error in training."""
    nan: float = Field(default=0.0, ge=0, le=1)
    """Probability that a client trains and sends NaN, which the server refuses."""
    straggler: float = Field(default=0.0, ge=0, le=1)
    """Probability that a client is slow; it fails if its delay exceeds the deadline."""
    delay: float | None = Field(default=None, gt=0)
    """Mean of a straggler's exponential delay, in seconds of virtual time."""
    deadline: float | None = Field(default=None, gt=0)
    """Seconds of virtual time after which a straggler is late; it does not train then."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        total = math.fsum([self.dropout, self.crash, self.nan, self.straggler])
        if total > 1 + 1e-9:  # 0.7 + 0.2 + 0.1 may be a little more than 1 in binary
            raise invalid("dropout + crash + nan + straggler", round(total, 9), "must be at most 1")
        times = {"delay": self.delay, "deadline": self.deadline}
        missing = [f"faults.{name}" for name, seconds in times.items() if seconds is None]
        if self.straggler > 0 and missing:
            raise invalid("straggler", self.straggler, f"needs {' and '.join(missing)}")
        if len(missing) == 1:
            key, seconds = next((name, seconds) for name, seconds in times.items() if seconds is not None)
            raise invalid(key, seconds, f"needs {missing[0]}")
        return self

    @property
    def active(self) -> bool:
        """Whether faults are possible."""
        return max(self.dropout, self.crash, self.nan, self.straggler) > 0


class RuntimeSection(Section):
    """Settings that affect only speed, not results."""

    engine: Literal["local", "ray", "sequential"] = "local"
    """`local`: worker processes; `ray`: actors of a Ray cluster; `sequential`: in this process."""
    workers: int = Field(default=0, ge=0, le=1024)
    """Worker processes or actors; 0: one for each core."""
    address: str = ""
    """Address of a Ray cluster (`auto`: this machine's); empty: Ray is started on this machine."""

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        if self.address and self.engine != "ray":
            raise invalid("address", self.address, f"is for engine = 'ray', not {self.engine!r}")
        return self
