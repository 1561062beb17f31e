"""Time of a round: fedsim, Flower's runtime, pfl-research and a bare PyTorch loop at the same work.

    python -m fedsim.experiments.benchmarks.rounds --case cross-device --json rounds.json

`cross-device`: 1,000 clients, 100 a round, 10 examples each. `cross-silo`: 10 clients, all in each round, 600
examples each. One epoch of plain SGD in batches of 10 on 28x28 images, a CNN of 215,370 parameters, the same clients
and first weights for all. Timed rounds don't evaluate.

The competitors run one after another, each in its own processes, and all of them again for each repeat, so that a
slower machine affects all. Each first runs warm-up rounds; the last round, in which fedsim evaluates, is dropped for
all.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedsim import Refused
from fedsim.experiments.benchmarks import command, host
from fedsim.experiments.benchmarks.competitors import chosen, competitors
from fedsim.experiments.benchmarks.runner import Outcome, run
from fedsim.experiments.benchmarks.setting import set_up
from fedsim.experiments.benchmarks.summary import Summary, summarise, targets
from fedsim.experiments.benchmarks.work import CASES, PARAMETERS, Work
from fedsim.threads import cores


def table(case: str, summaries: Sequence[Summary]) -> Table:
    """Return the summaries as a table, without competitors that could not be run."""
    made = Table(title=f"{case}: seconds a round (median), and how many times as long as fedsim's")
    made.add_column("who", no_wrap=True)
    for name in ("a round", "lowest to highest", "times", "over repeats", "start", "test loss"):
        made.add_column(name, justify="right", no_wrap=True)
    for one in summaries:
        if one.seconds is None:
            continue
        made.add_row(
            one.name,
            f"{one.seconds.middle:.3f}",
            f"{one.seconds.low:.3f} to {one.seconds.high:.3f}",
            f"{one.ratio.middle:.2f}" if one.ratio else "",
            f"{one.ratio.low:.2f} to {one.ratio.high:.2f}" if one.ratio else "",
            f"{one.start:.1f} s",
            f"{one.loss:.4f}",
        )
    return made


def verdicts(case: str, number_of_cores: int, summaries: Sequence[Summary]) -> list[str]:
    """Return a line for each target with the measurement."""
    lines = []
    for target in targets(case, number_of_cores):
        found = target.reached(summaries)
        measured = f"{found[1]:.2f} times ({found[0].name})" if found else "not measured"
        lines.append(f"target: {target.times:g} times as fast as {target.title}; measured: {measured}")
    return lines


def as_json(case: str, work: Work, hosts: Sequence[object], outcomes: Sequence[Outcome]) -> str:
    """Return everything, raw figures and summaries, as JSON."""
    summaries = summarise(outcomes, work)
    tree = {
        "case": case,
        "work": {key: value for key, value in asdict(work).items() if key != "folder"},
        "host": {"before": hosts[0], "after": hosts[-1]},
        "runs": [asdict(outcome) for outcome in outcomes],
        "summary": [asdict(summary) for summary in summaries],
        "targets": verdicts(case, work.cores, summaries),
    }
    return json.dumps(tree, indent=2) + "\n"


def checked(outcome: Outcome) -> Outcome:
    """Return an outcome, as failed if its model differs from the common one."""
    said = outcome.report
    if said is None or said.parameters == PARAMETERS:
        return outcome
    reason = f"failed: its model has {said.parameters:,} parameters and not {PARAMETERS:,}"
    return replace(outcome, report=None, reason=reason)


def measure(work: Work, repeats: int, names: str | None, console: Console) -> list[Outcome]:
    """Run all competitors in turn, with repeats."""
    everyone = chosen(competitors(work), names)
    path = set_up(work)
    outcomes: list[Outcome] = []
    for repeat in range(repeats):
        for competitor in everyone:
            outcomes.append(outcome := checked(run(competitor, work, path, repeat)))
            (one,) = summarise([outcome], work)
            said = f"{one.seconds.middle:.3f} s a round" if one.seconds else outcome.reason
            console.print(f"{repeat + 1}/{repeats} {competitor.name}: {said}", highlight=False, markup=False)
    return outcomes


def main() -> None:
    """Print the table, and write it where asked."""
    parser = command.arguments(__doc__)
    parser.add_argument("--case", choices=sorted(CASES), required=True)
    parser.add_argument("--repeats", type=command.positive, default=3, help="runs of each (default: 3)")
    parser.add_argument("--only", metavar="NAME,...", help="names, or how they begin: fedsim,flower,pfl,bare")
    parser.add_argument("--warmup", type=command.positive, default=3, help="rounds before (default: 3)")
    parser.add_argument("--rounds", type=command.positive, default=12, help="timed rounds (default: 12)")
    arguments = parser.parse_args()
    case, console, before = arguments.case, command.console(), host.describe()
    with tempfile.TemporaryDirectory(prefix="fedsim-benchmark-") as folder:
        work = Work(CASES[case], arguments.warmup, arguments.rounds, arguments.seed, cores(), Path(folder))
        try:
            outcomes = measure(work, arguments.repeats, arguments.only, console)
        except Refused as refused:
            command.refuse(f"rounds: {refused}")
        if arguments.json:
            arguments.json.write_text(as_json(case, work, [before, host.describe()], outcomes))
        summaries = summarise(outcomes, work)
        console.print(table(case, summaries))
        reasons = [f"{one.name}: {one.reason}" for one in summaries if one.reason]
        for line in reasons + verdicts(case, work.cores, summaries):
            console.print(line, highlight=False, markup=False)


if __name__ == "__main__":
    main()
