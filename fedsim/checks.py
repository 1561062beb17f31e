"""Checks of an experiment across its tables, with those of its mechanism."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.catalogue import MECHANISMS, STRATEGIES
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.events import Noise, Sampling
from fedsim.privacy.secagg import checks as secagg_checks
from fedsim.privacy.training import CohortRule, Intent, Problem, StrategyTraits
from fedsim.sections import ExperimentTables, ServerSection
from fedsim.sections.privacy import metrics_of_sums

# Samplings that draw rounds independently.
INDEPENDENT = (Sampling.FIXED, Sampling.POISSON, Sampling.TRUNCATED_POISSON)


def intent_of(experiment: ExperimentTables) -> Intent:
    """Return the parts of an experiment that its privacy mechanism checks."""
    server, secagg, strategy = experiment.server, experiment.privacy.secagg, experiment.server.strategy_entry
    return Intent(
        rounds=experiment.rounds,
        rule=rule_of(server),
        clients=experiment.data.clients,
        weighting=server.weighting,
        strategy=StrategyTraits(
            name=server.strategy,
            linear=strategy.linear,
            needs_initial_loss=strategy.needs_initial_loss,
            linear_ones=tuple(name for name, entry in STRATEGIES.items() if entry.linear),
        ),
        engine=experiment.runtime.engine,
        noise=Noise(experiment.privacy.noise),
        arithmetic=Arithmetic(experiment.privacy.arithmetic),
        client_evaluation=server.client_evaluation,
        held_out=experiment.data.held_out,
        work=experiment.client.work,
        secagg_clip=None if secagg is None else secagg.clip,
        own_data=experiment.data.source_entry.by_clients,
    )


def rule_of(server: ServerSection) -> CohortRule:
    """Return the rule for cohorts in `[server]`."""
    own = server.schedule is not None or ":" in server.sampling
    scheme = Sampling.OWN if own else Sampling(server.sampling)
    return CohortRule(sampling=scheme, cohort=server.cohort, max_cohort=server.max_cohort)


def problems_of(experiment: ExperimentTables) -> Iterator[Problem]:
    """Yield the reasons to refuse an experiment; the first is reported."""
    privacy, intent = experiment.privacy, intent_of(experiment)
    mechanism, settings = privacy.mechanism, privacy.settings
    yield from _clients_problems(experiment, intent, mechanism.hides_clients(settings))
    if experiment.algorithm_entry.fields:
        yield from _fields_problems(experiment, intent)
    if experiment.server.schedule is not None:
        yield from _schedule_problems(experiment, intent)
    if intent.rule.sampling is Sampling.OWN and not mechanism.takes_any_sampling:
        key = "sampling" if experiment.server.schedule is None else "schedule"
        yield Problem(
            ("server", key),
            getattr(experiment.server, key),
            f"no guarantee is known for it: the epsilon of privacy.{mechanism.name} depends on how cohorts are drawn; "
            f"allowed: {', '.join(scheme.value for scheme in INDEPENDENT)}",
        )
    yield from mechanism.check(settings, intent)
    if not mechanism.separates:
        yield from _separation_problems(intent)
    if privacy.secagg is not None:
        yield from secagg_checks.problems(privacy.secagg, intent, metrics_of_sums(privacy))
    if intent.own_data and mechanism.counts_records:
        yield Problem(
            ("privacy", mechanism.name),
            "a table",
            "needs each client's number of examples for its accounting, which clients with their own data don't "
            f"send; allowed with data.source = {experiment.data.source!r}: client-level mechanisms",
        )
    if intent.own_data and privacy.secagg is not None:
        yield from secagg_checks.problems_of_own_data(privacy.secagg, intent)


def _clients_problems(experiment: ExperimentTables, intent: Intent, hides_clients: bool) -> Iterator[Problem]:
    cohort, clients = intent.rule.cohort, intent.clients
    if clients is not None and cohort > clients and not hides_clients:
        yield Problem(("server", "cohort"), cohort, f"must be at most data.clients = {clients}")
    warmup = experiment.client.warmup_rounds
    if warmup is not None and warmup >= intent.rounds:
        yield Problem(("client", "warmup-rounds"), warmup, f"must be below rounds = {intent.rounds}")
    if intent.client_evaluation != "none" and intent.held_out == 0:
        yield Problem(
            ("server", "client-evaluation"), intent.client_evaluation, "needs data.held-out above 0"
        )


def _linear_problems(intent: Intent, why: str) -> Iterator[Problem]:
    """Refuse a strategy that needs more than the weighted mean of the models."""
    if not intent.strategy.linear:
        yield Problem(
            ("server", "strategy"),
            intent.strategy.name,
            f"needs each client's model, {why}; allowed: {', '.join(intent.strategy.linear_ones)}",
        )


def _schedule_problems(experiment: ExperimentTables, intent: Intent) -> Iterator[Problem]:
    """Refuse strategies and protocols that need all updates of a round, with a schedule of rounds."""
    schedule = experiment.server.schedule
    yield from _linear_problems(
        intent, f"and with server.schedule = {schedule!r} these are of different rounds"
    )
    for key, on in (
        ("privacy.secagg", experiment.privacy.secagg is not None),
        (f"algorithm.name = {experiment.algorithm_entry.name!r}", experiment.algorithm_entry.fields),
    ):
        if on:
            yield Problem(("server", "schedule"), schedule, f"{key} needs synchronous rounds; allowed: unset")


def _fields_problems(experiment: ExperimentTables, intent: Intent) -> Iterator[Problem]:
    """Refuse strategies and weights that don't fit an algorithm's fields."""
    name = experiment.algorithm_entry.name
    yield from _linear_problems(
        intent, f"but of the fields of algorithm.name = {name!r} the server takes only means"
    )
    if experiment.privacy.secagg is not None and intent.weighting != "uniform":
        yield Problem(
            ("server", "weighting"),
            intent.weighting,
            f"the fields of algorithm.name = {name!r} have equal weights, and with privacy.secagg they are in one "
            "vector with the model; allowed: uniform",
        )


def _separation_problems(intent: Intent) -> Iterator[Problem]:
    """Refuse separated cohorts with a mechanism that does not need them."""
    if intent.rule.sampling is Sampling.SEPARATED:
        separating = ", ".join(
            f"privacy.{name}" for name, entry in MECHANISMS.items() if entry.load().separates
        )
        others = ", ".join(scheme.value for scheme in INDEPENDENT)
        yield Problem(
            ("server", "sampling"),
            intent.rule.sampling.value,
            f"is for {separating}, with its min-separation; allowed: {others}",
        )
