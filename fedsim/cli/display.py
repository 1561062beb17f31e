"""Shows a run's progress and result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedsim.progress import Progress, Silent
from fedsim.results import Run
from fedsim.results.directory import from_here
from fedsim.tasks import Metric, Scoring

LINES = 10  # rounds in the live table
STOPPING = "ending after this round; a second signal ends at once"


def duration(seconds: float) -> str:
    """Format a duration.

    >>> duration(3.14), duration(75), duration(3700)
    ('3.1 s', '1 min 15 s', '1 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def loss_of(row: Mapping[str, Any], name: str) -> str:
    """Format a loss of a round's row."""
    return _shown(row, name, "{:.4f}".format)


def score_of(row: Mapping[str, Any], metric: Metric) -> str:
    """Format a metric of a round's row.

    >>> from fedsim.tasks import Format
    >>> score_of({"accuracy": 0.5}, Metric(name="accuracy", format=Format.PERCENT)), score_of({}, Metric(name="r2"))
    ('50.00%', '-')
    """
    return _shown(row, metric.name, metric.text)


def _shown(row: Mapping[str, Any], name: str, text: Callable[[float], str]) -> str:
    """Format a value of a round's row; null is a number that is not finite."""
    if name not in row:
        return "-"
    return "nan" if row[name] is None else text(row[name])


def released_of(row: Mapping[str, Any]) -> str:
    """Format the released metrics of a round's row; empty if there are none.

    >>> released_of({"round": 1, "train-loss": 1.5, "released-train-loss": 1.71234})
    'released-train-loss 1.712'
    """
    return ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key.startswith("released-"))


def privacy_of(row: Mapping[str, Any]) -> str:
    """Format the epsilon so far of a round's row, with its terms; empty without one.

    >>> privacy_of({"epsilon-known-cohort": 1.234, "unit": "example", "relation": "zero-out", "delta": 1e-5,
    ...     "noise-multiplier": 1.1, "sampling-rate": 0.2, "dp-steps": 15})
    'epsilon 1.234 known-cohort (example, zero-out, delta 1e-05; z 1.1, q 0.2, 15 steps)'
    """
    prefix = "epsilon-"
    spent = [f"{row[key]:.4g} {key.removeprefix(prefix)}" for key in row if key.startswith(prefix)]
    if not spent:
        return ""
    return (
        f"epsilon {', '.join(spent)} ({row['unit']}, {row['relation']}, delta {row['delta']:g}; "
        f"z {row['noise-multiplier']:.4g}, q {row['sampling-rate']:.4g}, {row['dp-steps']} steps)"
    )


def bar(part: float, width: int) -> Text:
    """Draw a progress bar: `part` of `width` characters."""
    full = round(width * part)
    return Text.assemble(("━" * full, "green"), ("━" * (width - full), "dim"))


class _Follower(Progress):
    """State of both displays: the task's metrics, the number of rounds, the first of this session, and times."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.metrics = Scoring().metrics
        self.rounds = self.done_before = 0
        self.began = time.perf_counter()
        self.seconds = 0.0

    def started(self, path: Path, rounds: int, done: int) -> None:
        self.rounds, self.done_before, self.began = rounds, done, time.perf_counter()
        if (path / "manifest.json").is_file():  # a run followed from its beginning has none yet
            self.metrics = Run(path).scoring.metrics

    def round_done(self, row: Mapping[str, Any]) -> None:
        self.seconds += row.get("seconds", 0.0)

    def left(self, row: Mapping[str, Any]) -> str:
        """Estimate the remaining time from the mean of this session's rounds.

        Empty if times are not public (`fedsim.results.disclosure`): they reveal how many clients took part.
        """
        if "seconds" not in row:
            return ""
        passed = max(time.perf_counter() - self.began, self.seconds)
        per_round = passed / (row["round"] - self.done_before)
        return f"{duration(per_round * (self.rounds - row['round']))} left"


class PlainLines(_Follower):
    """A line a round, for logs and pipes."""

    def started(self, path: Path, rounds: int, done: int) -> None:
        """Say where the run is written."""
        super().started(path, rounds, done)
        where = f"goes on after round {done} in" if done else "written to"
        print(f"{self.name}: {rounds} rounds, {where} {from_here(path)}", flush=True)

    def stopping(self) -> None:
        """Say that the round in flight is the last."""
        with suppress(RuntimeError):  # the signal came while a line was being printed
            print(STOPPING, flush=True)

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Say how the round went."""
        super().round_done(row)
        said = [
            *(f"{metric.name} {score_of(row, metric)}" for metric in self.metrics),
            f"loss {loss_of(row, 'loss')}",
            f"train-loss {loss_of(row, 'train-loss')}",
            released_of(row),
            f"{row['clients']} clients" if "clients" in row else "",
            f"{row['failures']} failed" if row.get("failures") else "",
            "diverged" if row.get("diverged") else "",
            privacy_of(row),
            f"{row['seconds']:.1f} s" if "seconds" in row else "",
            self.left(row),
        ]
        print(f"round {row['round']}/{self.rounds}: {', '.join(filter(None, said))}", flush=True)


class LiveTable(_Follower):
    """The last rounds, and the time left, redrawn in a terminal."""

    def __init__(self, name: str, live: Live) -> None:
        super().__init__(name)
        self.rows: list[Mapping[str, Any]] = []
        self.live = live

    def started(self, path: Path, rounds: int, done: int) -> None:
        """Show that the session's first round is under way."""
        super().started(path, rounds, done)
        self.live.update(Text(f"{self.name}: round {done + 1} of {rounds}, written to {from_here(path)}"))

    def stopping(self) -> None:
        """Show that the round in flight is the last."""
        self.live.console.print(STOPPING)

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Redraw with the round's row."""
        super().round_done(row)
        self.rows.append(row)
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for column in (
            "round",
            *(metric.name for metric in self.metrics),
            "loss",
            "train loss",
            "clients",
            "failed",
            "seconds",
        ):
            table.add_column(column, justify="right")
        for shown in self.rows[-LINES:]:
            table.add_row(
                f"{shown['round']}/{self.rounds}",
                *(score_of(shown, metric) for metric in self.metrics),
                loss_of(shown, "loss"),
                loss_of(shown, "train-loss"),
                str(shown.get("clients", "-")),
                str(shown.get("failures", "-") or ""),
                f"{shown['seconds']:.1f}" if "seconds" in shown else "-",
            )
        done = row["round"] / self.rounds
        table.caption = Text.assemble(
            ("".join(f"{said}\n" for said in (released_of(row), privacy_of(row)) if said), ""),
            bar(done, 30),
            f"  {', '.join(filter(None, (f'{done:.0%}', self.left(row))))}",
        )
        table.caption_justify = "left"
        self.live.update(table, refresh=True)


@contextmanager
def following(console: Console, quiet: bool, name: str) -> Iterator[Progress]:
    """Yield a run's display: a live table in a terminal, else lines, or nothing."""
    if quiet:
        yield Silent()
    elif not console.is_terminal:
        yield PlainLines(name)
    else:
        with Live(Text(f"{name}: preparing data and workers"), console=console) as live:
            yield LiveTable(name, live)


def failures_of(run: Run) -> str:
    """Say how many answers the clients of a Flower app failed to give, and the first reason; empty without any."""
    final = run.manifest["final"]
    count = final.get("client-failures", 0)
    return f"{count} client failures, the first {final['first-client-failure']!r}" if count else ""


def summary_of(run: Run) -> str:
    """Return the last line of a finished run's output."""
    rows, manifest = run.rows, run.manifest
    took = f" in {duration(manifest['wall-seconds'])}" if "wall-seconds" in manifest else ""
    if run.kind != "experiment":
        failed = f", {failures_of(run)}" if failures_of(run) else ""
        return f"{run.status}{took}{failed}: {from_here(run.path)}"
    metric = run.scoring.headline
    values = [row[metric.name] for row in rows if row.get(metric.name) is not None]
    last = score_of({metric.name: run.headline}, metric)
    best = metric.best(values)
    scores = "" if best is None else f"{metric.name} {last} (best {metric.text(best)}), "
    return f"{scores}{len(rows)} rounds{took}: {from_here(run.path)}"


def tell(done: Run, silent: bool, as_json: bool) -> None:
    """Print a run's result."""
    if as_json:
        typer.echo(json.dumps({"run": str(done.path), "status": done.status, **done.manifest["final"]}))
    elif not silent:
        typer.echo(summary_of(done))
