"""How a sweep looks while it goes on, and when it has ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedsim.cli.display import duration, privacy_of
from fedsim.results.directory import from_here
from fedsim.sweeps.plan import PlannedRun
from fedsim.sweeps.progress import SilentSweep, SweepProgress
from fedsim.sweeps.state import State, Sweep

STOPPING = "each run ends after its round; a second signal ends at once"
WIDTH = 30  # of the bar


class _Follower:
    """What both displays know: the runs that are left, where those under way are, and how fast it goes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.sweep: Sweep | None = None
        self.counts: Counter[State] = Counter()
        self.rows: dict[str, tuple[int, Mapping[str, Any]]] = {}  # of runs under way: rounds, the last row
        self.began_at = time.perf_counter()
        self._left: dict[str, float] = {}  # work, by run
        self._work: dict[str, int] = {}
        self._done = 0.0  # work, of this session

    def began(self, sweep: Sweep, todo: Sequence[PlannedRun]) -> None:
        """Note what is left."""
        self.sweep, self.began_at = sweep, time.perf_counter()
        self.counts = Counter(sweep.states.values())
        self._work = {run.name: run.work for run in todo}
        self._left = {run.name: float(run.work) for run in todo}
        for run in todo:  # those that failed before, too, if they are tried again
            self.counts[sweep.states[run.name]] -= 1

    def run_started(self, name: str, rounds: int, done: int) -> None:
        """Note that a run is under way."""
        self.rows[name] = (rounds, {"round": done})
        self._left[name] = self._work[name] * (1 - done / rounds)

    def round_done(self, name: str, row: Mapping[str, Any]) -> None:
        """Note how far a run has come."""
        rounds, _ = self.rows[name]
        self.rows[name] = (rounds, row)
        self._come_to(name, self._work[name] * (1 - row["round"] / rounds))

    def run_ended(self, name: str, state: State, reason: str) -> None:
        """Note what became of a run."""
        self.counts[state] += 1
        self.rows.pop(name, None)
        self._come_to(name, 0.0)

    def _come_to(self, name: str, left: float) -> None:
        self._done += self._left[name] - left
        self._left[name] = left

    @property
    def total(self) -> int:
        """How many runs the sweep has."""
        return len(self._work) + self.counts[State.COMPLETED] + self.counts[State.FAILED] - self._ended_now

    @property
    def _ended_now(self) -> int:
        return sum(left == 0 for left in self._left.values())

    def left(self) -> str:
        """Estimate the time to the end by what was done so far."""
        if not self._done:
            return "-"
        seconds = (time.perf_counter() - self.began_at) / self._done * sum(self._left.values())
        return duration(seconds)


class PlainSweep(_Follower):
    """A line a run, for logs and pipes."""

    def began(self, sweep: Sweep, todo: Sequence[PlannedRun]) -> None:
        """Say what is left, and where it is written."""
        super().began(sweep, todo)
        done = f", {self.counts[State.COMPLETED]} done before" if self.counts[State.COMPLETED] else ""
        print(f"{sweep.name}: {len(sweep.states)} runs{done}, written to {from_here(sweep.path)}", flush=True)

    def run_ended(self, name: str, state: State, reason: str) -> None:
        """Say what became of a run."""
        _, row = self.rows.get(name, (0, {}))
        super().run_ended(name, state, reason)
        over = self.counts[State.COMPLETED] + self.counts[State.FAILED]
        print(f"{over}/{self.total} {name}: {state}{_result(row, reason)}, {self.left()} left", flush=True)

    def stopping(self) -> None:
        """Say that the rounds under way are the last."""
        with suppress(RuntimeError):  # the signal came while a line was being printed
            print(STOPPING, flush=True)


class LiveSweep(_Follower):
    """The runs under way, and the time left, redrawn in a terminal."""

    def __init__(self, console: Console, live: Live) -> None:
        super().__init__(console)
        self.live = live

    def began(self, sweep: Sweep, todo: Sequence[PlannedRun]) -> None:
        """Show what is left."""
        super().began(sweep, todo)
        self._draw()

    def run_started(self, name: str, rounds: int, done: int) -> None:
        """Show a run."""
        super().run_started(name, rounds, done)
        self._draw()

    def round_done(self, name: str, row: Mapping[str, Any]) -> None:
        """Show how far a run has come."""
        super().round_done(name, row)
        self._draw()

    def run_ended(self, name: str, state: State, reason: str) -> None:
        """Show one run less, and why it failed, if so."""
        super().run_ended(name, state, reason)
        if state is State.FAILED:
            self.live.console.print(Text(f"{name}: failed: {reason}", "red"))
        self._draw()

    def stopping(self) -> None:
        """Show that the rounds under way are the last."""
        self.live.console.print(STOPPING)

    def _draw(self) -> None:
        if self.sweep is None:
            return
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for column, justify in (
            ("run", "left"),
            ("round", "right"),
            ("accuracy", "right"),
            ("privacy", "left"),
        ):
            table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for name, (rounds, row) in self.rows.items():
            accuracy = f"{row['accuracy']:.2%}" if "accuracy" in row else "-"
            table.add_row(name, f"{row['round']}/{rounds}", accuracy, privacy_of(row).partition(" (")[0])
        total = max(sum(self._work.values()), 1)
        part = 1 - sum(self._left.values()) / total
        bar = "━" * round(WIDTH * part)
        failed = f", {self.counts[State.FAILED]} failed" if self.counts[State.FAILED] else ""
        foot = Text.assemble(
            f"{self.sweep.name}: {self.counts[State.COMPLETED]} of {self.total} runs done{failed}  ",
            (bar, "green"),
            ("━" * (WIDTH - len(bar)), "dim"),
            f"  {self.left()} left",
        )
        self.live.update(Group(table, foot), refresh=True)


@contextmanager
def following(console: Console, quiet: bool) -> Iterator[SweepProgress]:
    """Yield what shows a sweep: a live table in a terminal, else lines, or nothing."""
    if quiet:
        yield SilentSweep()
    elif not console.is_terminal:
        yield PlainSweep(console)
    else:
        with Live(Text("starting workers"), console=console) as live:
            yield LiveSweep(console, live)


def show(sweep: Sweep, console: Console) -> None:
    """Print how a sweep has ended."""
    states = Counter(sweep.states.values())
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    console.print(f"{sum(states.values())} runs: {counts}", highlight=False)
    for name, reason in sweep.failures.items():
        console.print(Text(f"  {name}: {reason}"), soft_wrap=True)
    if sweep.failures:
        console.print("  --retry-failed tries these again", highlight=False)
    path: Path = from_here(sweep.path)
    console.print(Text(f"fedsim compare {path} shows what came out"), soft_wrap=True)


def _result(row: Mapping[str, Any], reason: str) -> str:
    if reason:
        return f" ({reason})"
    accuracy = f", accuracy {row['accuracy']:.2%}" if "accuracy" in row else ""
    return accuracy + (f", {privacy}" if (privacy := privacy_of(row)) else "")
