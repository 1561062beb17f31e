"""Early pruning: which settings compete, after which rounds, and which continue.

It is successive halving (Jamieson and Talwalkar 2016) with barriers: all settings of a bracket run up to a rung, and
the best continue to the next. So decisions follow from results only, for any number of workers and after any kills.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedsim.errors import Refused
from fedsim.privacy.settings import kebab
from fedsim.sweeps.planned_run import PlannedRun
from fedsim.tasks import Column, column_of
from fedsim.tasks.build import scoring_of

if TYPE_CHECKING:
    from fedsim.experiment import Experiment

# Tables that define the problem and the guarantee: scores are not compared across them.
GIVEN = ("data", "faults", "privacy")
# Keys that determine epsilon if a mechanism has its noise multiplier.
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
        factor: One in `factor` settings continues after a rung, rounded down, at least one; the next rung is after
            `factor` times the rounds.
        after: Rounds up to the first rung; None: all / `factor`^2, or the rounds of the first score if more.
        metric: Compared metric of the task, or `loss`, on the central test set; None: the headline metric.
        within: Further varied keys; settings with different values are not compared.
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
    """Return the pruning with a metric: by default the headline metric of the plan's task.

    Raises:
        Refused: A run lacks that metric, or none was named and the runs have several headline metrics.
    """
    experiments: dict[tuple[str, str], Experiment] = {}  # one for each task and source
    for run in runs:
        experiments.setdefault((run.arm, run.experiment.task_entry.name), run.experiment)
    scorings = list({scoring.names: scoring for scoring in map(scoring_of, experiments.values())}.values())
    headlines = dict.fromkeys(scoring.headline.name for scoring in scorings)
    if pruning.metric is None and len(headlines) > 1:
        said = f"the arms have several headline metrics: {', '.join(headlines)}; allowed: loss"
        raise Refused(f"prune metric: is unset, and {said}")
    metric = pruning.metric or next(iter(headlines))
    for scoring in scorings:
        if metric not in scoring.names:
            raise Refused(f"prune metric = {metric!r}: allowed: {', '.join(scoring.names)}")
    return replace(pruning, metric=metric)


@dataclass(frozen=True)
class Setting:
    """Runs of a sweep that differ only in their seed.

    Attributes:
        label: The varied settings, in words; may be empty.
    """

    label: str
    runs: tuple[PlannedRun, ...]


@dataclass(frozen=True)
class Bracket:
    """Settings that compete with each other.

    Attributes:
        label: The arm, and the shared varied values.
        settings: In the order of the plan.
        rounds: Of the longest run.
        rungs: Rounds after which some settings are pruned, in order; empty for one setting.
    """

    label: str
    settings: tuple[Setting, ...]
    rounds: int
    rungs: tuple[int, ...]


def _runs_of(settings: Iterable[Setting]) -> list[PlannedRun]:
    return [run for setting in settings for run in setting.runs]


def brackets_of(runs: Iterable[PlannedRun], pruning: Pruning) -> list[Bracket]:
    """Return the brackets of a plan.

    Settings compete within an arm if all varied keys under `data`, `faults` and `privacy`, and the task, have the
    same values, except clip norms; with a noise multiplier also those that determine epsilon.

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
        given, free = [run.arm], list[str]()
        for key, value in run.point.items():
            if key != "seed":
                (given if _is_given(key, run, pruning) else free).append(f"{key}={value}")
        parts.setdefault(", ".join(given), {}).setdefault(", ".join(free), []).append(run)
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
    """Return whether settings that differ in a key don't compete."""
    if key in pruning.within:
        return True
    privacy, tops = run.experiment.privacy, key.split(".")
    if tops[0] == "task":  # its options change the training, and so the loss, but no metric
        return pruning.metric == "loss" or tops[1:] in ([], ["name"])
    if tops[0] in GIVEN:
        return not (tops[0] == "privacy" and privacy.mechanism.tuned.intersection(tops))
    if not privacy.mechanism.has_given_noise(privacy.settings):
        return False
    return any(f"{paid}.".startswith(f"{key}.") for paid in PAID_FOR)


def _bracket(label: str, settings: list[Setting], pruning: Pruning) -> Bracket:
    runs = _runs_of(settings)
    rounds = max(run.experiment.rounds for run in runs)
    if len(settings) == 1:
        return Bracket(label, tuple(settings), rounds, ())
    # A run always scores its last round.
    scored = max(min(run.experiment.server.evaluate_every, run.experiment.rounds) for run in runs)
    first = pruning.after or max(math.ceil(rounds / pruning.factor**2), scored)
    where = f"--prune: {label}: the first rung, after round {first}"
    if first >= rounds:
        raise Refused(f"{where}, must be before the last, {rounds}")
    if first < scored:
        raise Refused(f"{where}, comes before the first score, after round {scored} (server.evaluate-every)")
    rungs = [first]
    while rungs[-1] * pruning.factor < rounds:
        rungs.append(rungs[-1] * pruning.factor)
    return Bracket(label, tuple(settings), rounds, tuple(rungs))


# --- decisions -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """A run's results so far.

    Attributes:
        rows: Its rounds, as in `metrics.jsonl`.
        over: Whether it was completed.
        failed: Whether it has failed, and is not retried.
        written: Whether its last session ended properly: a killed one has not.
    """

    rows: Sequence[Mapping[str, Any]] = ()
    over: bool = False
    failed: bool = False
    written: bool = True

    @property
    def has_ended(self) -> bool:
        """Whether it will make no more rounds."""
        return self.over or self.failed

    def has_come_to(self, round_: int) -> bool:
        """Return whether it has reached a round, or will make no more."""
        done = len(self.rows)
        return self.has_ended or done > round_ or (done == round_ and self.written)

    def score(self, round_: int, metric: Column) -> float:
        """Return the last score up to a round, higher being better; minus infinity if it failed before."""
        if len(self.rows) < round_ and not self.over:
            return -math.inf
        scores = [row[metric.name] for row in self.rows[:round_] if metric.name in row]
        if not scores or scores[-1] is None or math.isnan(scores[-1]):
            return -math.inf
        return -float(scores[-1]) if metric.lower_is_better else float(scores[-1])


@dataclass(frozen=True)
class Decision:
    """A decision at a rung.

    Attributes:
        rung: The rung, as a round.
        ranking: The settings that reached it, the best first, with their scores: means over seeds.
        kept: How many of them continue.
        metric: The scores' metric.
    """

    bracket: Bracket
    rung: int
    ranking: tuple[tuple[Setting, float], ...]
    kept: int
    metric: Column

    def reason(self, place: int) -> str:
        """Return why a setting is pruned, by its place from 0."""
        return (
            f"after round {self.rung} of {self.bracket.rounds}: place {place + 1} of {len(self.ranking)} by "
            f"{self.metric.name}, and {self.kept} {'goes' if self.kept == 1 else 'go'} on"
        )


@dataclass(frozen=True)
class Standing:
    """A bracket's state.

    Attributes:
        decisions: All decisions from the results, in order.
        next: The runs to continue.
        until: The round up to which; None: to their ends.
    """

    decisions: tuple[Decision, ...]
    next: tuple[PlannedRun, ...]
    until: int | None


def standing(bracket: Bracket, results: Mapping[str, Result], pruning: Pruning) -> Standing:
    """Return a bracket's state from results by run name; a run without one has not begun."""
    alive: Sequence[Setting] = bracket.settings
    decisions: list[Decision] = []
    for rung in bracket.rungs:
        if len(alive) <= 1:
            break
        if left := [run for run in _runs_of(alive) if not results.get(run.name, Result()).has_come_to(rung)]:
            return Standing(tuple(decisions), tuple(left), rung)
        decisions.append(_decide(bracket, rung, alive, results, pruning))
        alive = [setting for setting, _ in decisions[-1].ranking[: decisions[-1].kept]]
    left = [run for run in _runs_of(alive) if not results.get(run.name, Result()).has_ended]
    return Standing(tuple(decisions), tuple(left), None)


def _decide(
    bracket: Bracket, rung: int, alive: Sequence[Setting], results: Mapping[str, Result], pruning: Pruning
) -> Decision:
    """Rank settings by their means over seeds, ties in the plan's order; settings with a failed run are last."""
    scoring = scoring_of(bracket.settings[0].runs[0].experiment)
    metric = column_of(pruning.metric or scoring.headline.name, scoring)

    def mean(setting: Setting) -> float:
        scores = [results[run.name].score(rung, metric) for run in setting.runs]
        return -math.inf if -math.inf in scores else math.fsum(scores) / len(scores)

    ranking = sorted(((setting, mean(setting)) for setting in alive), key=lambda scored: -scored[1])
    sound = sum(score > -math.inf for _, score in ranking)
    kept = min(max(len(alive) // pruning.factor, 1), sound)
    sign = -1 if metric.lower_is_better else 1
    return Decision(bracket, rung, tuple((s, sign * score) for s, score in ranking), kept, metric)
