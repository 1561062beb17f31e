"""Early pruning: which settings compete, after which rounds, and which of them go on.

It is successive halving (Jamieson and Talwalkar 2016) with barriers: all settings of a bracket run up to a rung, the
best part of them goes on to the next. So a decision follows from results alone, whatever the number of workers and
however often the sweep was killed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedsim.errors import Refused
from fedsim.privacy.settings import kebab
from fedsim.sweeps.planned_run import PlannedRun
from fedsim.tasks import Column, column_of
from fedsim.tasks.build import scoring_of

if TYPE_CHECKING:
    from fedsim.experiment import Experiment

# Tables that say what is learned and what is promised, not how well: across them scores are not compared.
GIVEN = ("data", "faults", "privacy")
# What epsilon follows from where a mechanism has its noise multiplier.
PAID_FOR = (
    "rounds",
    "server.cohort",
    "server.max-cohort",
    "server.sampling",
    "client.epochs",
    "client.steps",
    "client.batch-size",
)


@dataclass(frozen=True)
class Pruning:
    """How settings are pruned.

    Attributes:
        factor: One in so many settings goes on from a rung, rounded down, and one at least; the next rung is after so
            many times the rounds.
        after: Rounds up to the first rung; None: a `factor` squared-th of all, or as many as the first score takes.
        metric: By what settings are compared: a metric of the task, or `loss`, on the central test set; None: the
            headline metric.
        within: More varied keys across which settings are not compared.
    """

    factor: int = 3
    after: int | None = None
    metric: str | None = None
    within: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise Refused(f"prune factor = {self.factor}: must be at least 2")
        if self.after is not None and self.after < 1:
            raise Refused(f"prune after = {self.after}: must be at least 1")
        object.__setattr__(self, "within", tuple(kebab(key) for key in self.within))


def with_metric(pruning: Pruning, runs: Iterable[PlannedRun]) -> Pruning:
    """Return how settings of a plan are pruned, with the headline metric of its task where no metric was named.

    Raises:
        Refused: A run has not that metric, or no metric was named and the runs have several headline metrics.
    """
    scorings = list({scoring.names: scoring for scoring in map(scoring_of, _experiments(runs))}.values())
    headlines = dict.fromkeys(scoring.headline.name for scoring in scorings)
    if pruning.metric is None and len(headlines) > 1:
        raise Refused(
            f"prune metric: is unset, and the arms have several headline metrics: {', '.join(headlines)}; allowed: loss"
        )
    metric = pruning.metric or next(iter(headlines))
    for scoring in scorings:
        if metric not in scoring.names:
            raise Refused(f"prune metric = {metric!r}: allowed: {', '.join(scoring.names)}")
    return replace(pruning, metric=metric)


def _experiments(runs: Iterable[PlannedRun]) -> Iterator[Experiment]:
    """Yield an experiment for each task and source."""
    seen = set()
    for run in runs:
        key = (run.arm, run.experiment.task_entry.name)
        if key not in seen:
            seen.add(key)
            yield run.experiment


@dataclass(frozen=True)
class Setting:
    """Runs of a sweep that differ in their seed alone.

    Attributes:
        label: What is varied, in words; empty where nothing is.
        runs: One a seed.
    """

    label: str
    runs: tuple[PlannedRun, ...]


@dataclass(frozen=True)
class Bracket:
    """Settings that compete with each other, and with no others.

    Attributes:
        label: The arm, and the varied values that all have.
        settings: In the order of the plan.
        rounds: Of the longest run.
        rungs: Rounds after which some settings are pruned, in order; empty where there is but one setting.
    """

    label: str
    settings: tuple[Setting, ...]
    rounds: int
    rungs: tuple[int, ...]


def brackets_of(runs: Iterable[PlannedRun], pruning: Pruning) -> list[Bracket]:
    """Return the brackets of a plan.

    Settings compete within the same arm, where all varied keys under `data`, `faults` and `privacy`, and the task, have
    the same values, clip norms apart; with a noise multiplier also those that epsilon follows from.

    Raises:
        Refused: No two settings compete, `within` names a key that is not varied, or the first rung is not below the
            rounds or comes before the first score.
    """
    runs = list(runs)
    varied = dict.fromkeys(key for run in runs for key in run.point)
    if unknown := [key for key in pruning.within if key not in varied]:
        allowed = ", ".join(varied) or "none"
        raise Refused(f"prune within = {unknown[0]!r}: is not varied; allowed: {allowed}")
    parts: dict[str, dict[str, list[PlannedRun]]] = {}
    for run in runs:
        fixed = [key for key in run.point if key != "seed" and _is_given(key, run, pruning)]
        free = [key for key in run.point if key != "seed" and key not in fixed]
        bracket = ", ".join([run.arm, *_said(run, fixed)])
        parts.setdefault(bracket, {}).setdefault(", ".join(_said(run, free)), []).append(run)
    brackets = [
        _bracket(label, [Setting(name, tuple(same)) for name, same in settings.items()], pruning)
        for label, settings in parts.items()
    ]
    if not any(bracket.rungs for bracket in brackets):
        raise Refused(
            "--prune: no two settings compete: none of an arm differ in more than their seed, data, faults and privacy"
        )
    return brackets


def _is_given(key: str, run: PlannedRun, pruning: Pruning) -> bool:
    """Say whether settings that differ in a key do not compete."""
    if key in pruning.within:
        return True
    privacy, tops = run.experiment.privacy, key.split(".")
    if tops[0] == "task":  # its options change what is trained, and so the loss, and no metric
        return pruning.metric == "loss" or tops[1:] in ([], ["name"])
    if tops[0] in GIVEN:
        return not (tops[0] == "privacy" and privacy.mechanism.tuned.intersection(tops))
    if not privacy.mechanism.has_given_noise(privacy.settings):
        return False
    return any(f"{paid}.".startswith(f"{key}.") for paid in PAID_FOR)


def _said(run: PlannedRun, keys: Iterable[str]) -> list[str]:
    return [f"{key}={run.point[key]}" for key in keys]


def _bracket(label: str, settings: list[Setting], pruning: Pruning) -> Bracket:
    runs = [run for setting in settings for run in setting.runs]
    rounds = max(run.experiment.rounds for run in runs)
    if len(settings) == 1:
        return Bracket(label, tuple(settings), rounds, ())
    # A run scores its last round in any case.
    scored = max(min(run.experiment.server.evaluate_every, run.experiment.rounds) for run in runs)
    first = pruning.after
    if first is None:
        first = max(math.ceil(rounds / pruning.factor**2), scored)
    if first >= rounds:
        raise Refused(
            f"--prune: {label}: the first rung, after round {first}, must be before the last, {rounds}"
        )
    if first < scored:
        raise Refused(
            f"--prune: {label}: the first rung, after round {first}, comes before the first score, after round {scored} "
            "(server.evaluate-every)"
        )
    rungs = [first]
    while rungs[-1] * pruning.factor < rounds:
        rungs.append(rungs[-1] * pruning.factor)
    return Bracket(label, tuple(settings), rounds, tuple(rungs))


# --- decisions -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """How far a run has come.

    Attributes:
        rows: Its rounds, as `metrics.jsonl` has them.
        over: Whether it was completed.
        failed: Whether it has failed, and is not tried again.
        written: Whether its last session has come to an end: a killed one has not.
    """

    rows: Sequence[Mapping[str, Any]] = ()
    over: bool = False
    failed: bool = False
    written: bool = True

    @property
    def has_ended(self) -> bool:
        """Whether it makes no more rounds."""
        return self.over or self.failed

    def has_come_to(self, round_: int) -> bool:
        """Say whether it has made so many rounds, or makes no more."""
        done = len(self.rows)
        return self.has_ended or done > round_ or (done == round_ and self.written)

    def score(self, round_: int, metric: Column) -> float:
        """Return the last score up to a round, more being better; minus infinity for one that failed before it."""
        if len(self.rows) < round_ and not self.over:
            return -math.inf
        scores = [float(row[metric.name]) for row in self.rows[:round_] if metric.name in row]
        if not scores or math.isnan(scores[-1]):
            return -math.inf
        return -scores[-1] if metric.lower_is_better else scores[-1]


@dataclass(frozen=True)
class Decision:
    """What was decided at a rung.

    Attributes:
        bracket: Whose.
        rung: The round after which.
        ranking: The settings that came so far, the best first, with their scores: means over seeds.
        kept: How many of them go on.
        metric: What the scores are.
    """

    bracket: Bracket
    rung: int
    ranking: tuple[tuple[Setting, float], ...]
    kept: int
    metric: Column

    def reason(self, place: int) -> str:
        """Say why a setting does not go on, by its place from 0."""
        return (
            f"after round {self.rung} of {self.bracket.rounds}: place {place + 1} of {len(self.ranking)} by "
            f"{self.metric.name}, and {self.kept} {'goes' if self.kept == 1 else 'go'} on"
        )


@dataclass(frozen=True)
class Standing:
    """Where a bracket stands.

    Attributes:
        decisions: All that follow from the results, in order.
        next: The runs that are to be played, if they are not yet.
        until: The round up to which; None: to their ends.
    """

    decisions: tuple[Decision, ...]
    next: tuple[PlannedRun, ...]
    until: int | None


def standing(bracket: Bracket, results: Mapping[str, Result], pruning: Pruning) -> Standing:
    """Return what follows from results, by runs' names; a run without one has not begun."""
    alive: Sequence[Setting] = bracket.settings
    decisions: list[Decision] = []
    for rung in bracket.rungs:
        if len(alive) <= 1:
            break
        runs = [run for setting in alive for run in setting.runs]
        if left := [run for run in runs if not results.get(run.name, Result()).has_come_to(rung)]:
            return Standing(tuple(decisions), tuple(left), rung)
        decisions.append(_decide(bracket, rung, alive, results, pruning))
        alive = [setting for setting, _ in decisions[-1].ranking[: decisions[-1].kept]]
    left = [run for setting in alive for run in setting.runs if not results.get(run.name, Result()).has_ended]
    return Standing(tuple(decisions), tuple(left), None)


def _decide(
    bracket: Bracket,
    rung: int,
    alive: Sequence[Setting],
    results: Mapping[str, Result],
    pruning: Pruning,
) -> Decision:
    """Rank settings by their means over seeds; of equals the plan's first is before. One with a failed run is last."""
    scoring = scoring_of(bracket.settings[0].runs[0].experiment)
    metric = column_of(pruning.metric or scoring.headline.name, scoring)
    scores = [
        (setting, math.fsum(each) / len(each) if -math.inf not in each else -math.inf)
        for setting in alive
        for each in [[results[run.name].score(rung, metric) for run in setting.runs]]
    ]
    ranking = sorted(scores, key=lambda scored: -scored[1])
    sound = sum(score > -math.inf for _, score in ranking)
    kept = min(max(len(alive) // pruning.factor, 1), sound)
    sign = -1 if metric.lower_is_better else 1
    return Decision(bracket, rung, tuple((s, sign * score) for s, score in ranking), kept, metric)
