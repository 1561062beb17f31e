"""Shows a sweep's progress and result."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedsim.cli.display import bar, duration, privacy_of, score_of
from fedsim.results.directory import from_here
from fedsim.results.disclosure import is_restricted
from fedsim.sweeps.planned_run import PlannedRun
from fedsim.sweeps.progress import SilentSweep, SweepProgress
from fedsim.sweeps.pruning import Decision, Setting, brackets_of
from fedsim.sweeps.state import State, Sweep, plan_of
from fedsim.tasks import Column, Metric
from fedsim.tasks.build import scoring_of

STOPPING = "each run ends after its round; a second signal ends at once"
WIDTH = 24  # of the bar
SHOWN = 12  # brackets listed
NAMED = 3  # continuing settings listed


class _Follower(SweepProgress):
    """State of both displays: the remaining runs, the progress of running ones, and the speed."""

    def __init__(self) -> None:
        self.sweep: Sweep | None = None
        self.states: dict[str, State] = {}
        self.metrics: dict[str, Metric] = {}  # the headline metric of each remaining run
        self.at_most = ""  # prefix of the estimated time left, which pruning may shorten
        self.rows: dict[str, tuple[int, Mapping[str, Any]]] = {}  # of running runs: rounds, the last row
        self.began_at = time.perf_counter()
        self._left: dict[str, float] = {}  # work, by run
        self._work: dict[str, int] = {}
        self._done = 0.0  # work, of this session
        self._timed = True

    def began(self, sweep: Sweep, todo: Sequence[PlannedRun]) -> None:
        self.sweep, self.began_at = sweep, time.perf_counter()
        # Runs that failed before are included if they are retried.
        self.states = sweep.states | {run.name: State.WAITING for run in todo}
        self.metrics = {run.name: scoring_of(run.experiment).headline for run in todo}
        self.at_most = "at most " if sweep.tree.get("prune") else ""
        self._work = {run.name: run.work for run in todo}
        self._left = {run.name: float(run.work) for run in todo}
        self._timed = not any(is_restricted(run.experiment.privacy.noise) for run in todo)

    def run_started(self, name: str, rounds: int, done: int) -> None:
        self.rows[name] = (rounds, {"round": done})
        self.states[name] = State.RUNNING
        self._left[name] = self._work.get(name, 0) * (1 - done / rounds)
        self._draw()

    def round_done(self, name: str, row: Mapping[str, Any]) -> None:
        rounds, _ = self.rows[name]
        self.rows[name] = (rounds, row)
        self._come_to(name, self._work.get(name, 0) * (1 - row["round"] / rounds))
        self._draw()

    def run_ended(self, name: str, state: State, reason: str) -> None:
        self.states[name] = state
        self.rows.pop(name, None)
        if state is State.PRUNED:
            self._left[name] = 0.0  # no work was done for it
        elif state is not State.PAUSED:
            self._come_to(name, 0.0)
        self._draw()

    def decided(self, decision: Decision) -> None:
        self._say(decided(decision))

    def stopping(self) -> None:
        with suppress(RuntimeError):  # the signal came while a line was being printed
            self._say(STOPPING)

    def _say(self, line: str) -> None:
        print(line, flush=True)

    def _draw(self) -> None:
        """Redraw what is drawn."""

    def _come_to(self, name: str, left: float) -> None:
        self._done += self._left.get(name, 0.0) - left
        self._left[name] = left

    def count(self, *states: State) -> int:
        """Return the number of runs in these states."""
        return sum(state in states for state in self.states.values())

    def left(self) -> str:
        """Estimate the remaining time from the work done so far; nothing if a run's times are not public."""
        if not self._timed:
            return ""
        if not self._done:
            return ", - left"
        seconds = (time.perf_counter() - self.began_at) / self._done * sum(self._left.values())
        return f", {self.at_most}{duration(seconds)} left"


class PlainSweep(_Follower):
    """A line a run, for logs and pipes."""

    def began(self, sweep: Sweep, todo: Sequence[PlannedRun]) -> None:
        """Print the number of runs, and where they are written."""
        super().began(sweep, todo)
        over = self.count(State.COMPLETED, State.PRUNED)
        done = f", {over} done before" if over else ""
        self._say(f"{sweep.name}: {len(self.states)} runs{done}, written to {from_here(sweep.path)}")
        for line in competing(sweep):
            self._say(line)

    def run_ended(self, name: str, state: State, reason: str) -> None:
        """Print a run's final state."""
        _, row = self.rows.get(name, (0, {}))
        super().run_ended(name, state, reason)
        if state is State.PAUSED:
            return
        over = self.count(State.COMPLETED, State.FAILED, State.PRUNED)
        said = _result(row, self.metrics[name], reason)
        self._say(f"{over}/{len(self.states)} {name}: {state}{said}{self.left()}")


class LiveSweep(_Follower):
    """The runs under way, and the time left, redrawn in a terminal."""

    def __init__(self, live: Live) -> None:
        super().__init__()
        self.live = live

    def began(self, sweep: Sweep, todo: Sequence[PlannedRun]) -> None:
        """Show the remaining runs."""
        super().began(sweep, todo)
        for line in competing(sweep):
            self._say(line)
        self._draw()

    def run_ended(self, name: str, state: State, reason: str) -> None:
        """Remove a run, and show why it failed, if it did."""
        if state is State.FAILED:
            self.live.console.print(Text(f"{name}: failed: {reason}", "red"))
        super().run_ended(name, state, reason)

    def _say(self, line: str) -> None:
        self.live.console.print(Text(line))

    def _draw(self) -> None:
        if self.sweep is None:
            return
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("run", overflow="fold")
        table.add_column("round", justify="right", overflow="fold")
        score = " or ".join(dict.fromkeys(metric.name for metric in self.metrics.values()))
        table.add_column(score, justify="right", overflow="fold")
        table.add_column("privacy", overflow="fold")
        for name, (rounds, row) in self.rows.items():
            score = score_of(row, self.metrics[name])
            table.add_row(name, f"{row['round']}/{rounds}", score, privacy_of(row).partition(" (")[0])
        total = max(sum(self._work.values()), 1)
        if waiting := self.count(State.PAUSED):
            table.add_row(f"{waiting} at a rung, waiting for others", "", "", "")
        ended = "".join(f", {self.count(s)} {s}" for s in (State.PRUNED, State.FAILED) if self.count(s))
        foot = Text.assemble(
            f"{self.sweep.name}: {self.count(State.COMPLETED)} of {len(self.states)} runs done{ended}  ",
            bar(1 - sum(self._left.values()) / total, WIDTH),
            f"  {self.left().removeprefix(', ')}",
        )
        self.live.update(Group(table, foot), refresh=True)


@contextmanager
def following(console: Console, quiet: bool) -> Iterator[SweepProgress]:
    """Yield a sweep's display: a live table in a terminal, else lines, or nothing."""
    if quiet:
        yield SilentSweep()
    elif not console.is_terminal:
        yield PlainSweep()
    else:
        with Live(Text("starting workers"), console=console) as live:
            yield LiveSweep(live)


def show(sweep: Sweep, console: Console) -> None:
    """Print a sweep's result."""
    states = Counter(sweep.states.values())
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    console.print(f"{sum(states.values())} runs: {counts}", highlight=False)
    for name, reason in sweep.failures.items():
        console.print(Text(f"  {name}: {reason}"), soft_wrap=True)
    if sweep.failures:
        console.print("  --retry-failed tries these again", highlight=False)
    console.print(Text(f"fedsim compare {from_here(sweep.path)} shows the results"), soft_wrap=True)


def competing(sweep: Sweep) -> list[str]:
    """Return a line for each bracket of competing settings; none without pruning."""
    plan = plan_of(sweep.tree)
    if plan.pruning is None:
        return []
    brackets = brackets_of(plan.runs, plan.pruning)
    lines = []
    for bracket in brackets[:SHOWN]:
        said = "one setting, which runs to its end"
        if bracket.rungs:
            rungs = ", ".join(map(str, bracket.rungs))
            said = f"{len(bracket.settings)} settings compete, after rounds {rungs} of {bracket.rounds}"
        lines.append(f"pruning: {bracket.label}: {said}")
    rest = len(brackets) - SHOWN
    return lines + ([f"pruning: and {rest} more brackets"] if rest > 0 else [])


def decided(decision: Decision) -> str:
    """Return a rung's decision as a line."""
    went, out = decision.ranking[: decision.kept], decision.ranking[decision.kept :]
    best = ", ".join(_score(*scored, decision.metric) for scored in went[:NAMED])
    more = f" and {len(went) - NAMED} more" if len(went) > NAMED else ""
    before = f": {best}{more}, ahead of {_score(*out[0], decision.metric)}" if went else ""
    return (
        f"{decision.bracket.label}, round {decision.rung}: {len(went)} of {len(decision.ranking)} settings "
        f"{'goes' if len(went) == 1 else 'go'} on{before}"
    )


def _score(setting: Setting, score: float, metric: Column) -> str:
    if not math.isfinite(score):
        return f"{setting.label} (without a score)"
    return f"{setting.label} ({f'{score:.2%}' if metric.percent else f'{score:.4f}'})"


def _result(row: Mapping[str, Any], metric: Metric, reason: str) -> str:
    if reason:
        return f" ({reason})"
    score = f", {metric.name} {score_of(row, metric)}" if metric.name in row else ""
    return score + (f", {privacy}" if (privacy := privacy_of(row)) else "")
