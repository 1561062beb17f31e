"""Summaries of runs: medians, ranges, ratios, and fedsim's targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from fedsim.experiments.benchmarks.runner import Outcome
from fedsim.experiments.benchmarks.work import Work

REFERENCE = "fedsim-local"


@dataclass(frozen=True)
class Range:
    """A middle value with the smallest and the largest."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Range:
        """Return the median and the extremes of at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Summary:
    """One competitor over all its runs.

    Attributes:
        name: The competitor's name.
        seconds: Of a timed round, over the rounds of all runs; None if no run succeeded.
        ratio: Its rounds' duration as a multiple of fedsim's: the ratio of the medians over all runs, and the
            extremes of the ratio within one repeat; None without both.
        start: Median seconds from the process's start to its first round.
        loss: On the test set after all rounds, in the last run that succeeded.
        reason: Why a run gave no report, if there was such a run.
    """

    name: str
    seconds: Range | None = None
    ratio: Range | None = None
    start: float | None = None
    loss: float | None = None
    reason: str | None = None


def summarise(outcomes: Sequence[Outcome], work: Work) -> list[Summary]:
    """Return a summary for each competitor, in the order in which they first ran."""
    names = list(dict.fromkeys(outcome.name for outcome in outcomes))
    timed = {name: _timed(outcomes, name, work) for name in names}
    reference = timed.get(REFERENCE, {})
    return [_summary(name, outcomes, timed[name], reference) for name in names]


def _timed(outcomes: Sequence[Outcome], name: str, work: Work) -> dict[int, list[float]]:
    """Return the seconds of the timed rounds of each repeat."""
    return {
        outcome.repeat: outcome.report.seconds[work.warmup : work.warmup + work.timed]
        for outcome in outcomes
        if outcome.name == name and outcome.report is not None
    }


def _summary(
    name: str, outcomes: Sequence[Outcome], mine: dict[int, list[float]], reference: dict[int, list[float]]
) -> Summary:
    own = [outcome for outcome in outcomes if outcome.name == name]
    reason = next((outcome.reason for outcome in own if outcome.reason), None)
    if not mine:
        return Summary(name, reason=reason)
    ratio = None
    both = sorted(mine.keys() & reference.keys())
    if both:
        within = [median(mine[repeat]) / median(reference[repeat]) for repeat in both]
        ratio = Range(median(_all(mine)) / median(_all(reference)), min(within), max(within))
    reports = [outcome for outcome in own if outcome.report is not None]
    return Summary(
        name,
        Range.of(_all(mine)),
        ratio,
        median([outcome.start for outcome in reports]),
        reports[-1].report.test_loss if reports[-1].report else None,
        reason,
    )


def _all(repeats: dict[int, list[float]]) -> list[float]:
    return [seconds for repeat in repeats.values() for seconds in repeat]


@dataclass(frozen=True)
class Target:
    """A target speed of fedsim, as a multiple of the fastest of some competitors."""

    title: str
    names: tuple[str, ...]
    times: float

    def reached(self, summaries: Sequence[Summary]) -> tuple[Summary, float] | None:
        """Return the fastest of them and the measured ratio, or None."""
        rivals = [s for s in summaries if s.name in self.names and s.seconds and s.ratio]
        if not rivals:
            return None
        best = min(rivals, key=lambda rival: rival.seconds.middle if rival.seconds else 0.0)
        return best, best.ratio.middle if best.ratio else 0.0


def targets(case: str, cores: int) -> list[Target]:
    """Return the targets of a case."""
    bare = (f"bare-{cores}-process{'' if cores == 1 else 'es'}",)
    if case == "cross-silo":
        return [Target("Flower", ("flower-ray",), 1.2), Target("bare PyTorch on all cores", bare, 1.0)]
    pfl = ("pfl-1-process", f"pfl-{cores}-threads", f"pfl-{cores}-processes")
    return [
        Target("Flower", ("flower-ray",), 12.0),
        Target("pfl-research's best", pfl, 1.3),
        Target("bare PyTorch on all cores", bare, 1.0),
    ]
