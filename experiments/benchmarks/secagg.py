"""Time of secure aggregation: whole rounds with every message, one client's masks, and Flower's SecAgg+.

    python -m fedsim.experiments.benchmarks.secagg --json secagg.json

- `sparse`: 100 clients on a k-regular graph, 1,000,000 parameters, 5 lost before they upload.
- `complete`: 20 clients, each everyone's neighbour, 1,000,000 parameters; and Flower's SecAgg+ with the same
  clients, neighbours and threshold.
- `masks`: one client's masks, of 1,000,000 parameters, with 12 and with 19 neighbours; and Flower's.
- `thousand`: 1,000 clients, 100,000 parameters, 50 lost before they upload, in two processes.

One thread in each process. A round's seconds are those of all clients and the server together, including stochastic
rounding but not making the updates; Flower's are without message transport. Each round's sum is checked against the
sum of the clients' vectors, to the bit. Two clocks: wall time (`s`) and CPU time (`CPU s`), which is more reliable on
a busy machine. Predictions are those of the cost model (`fedsim.privacy.secagg.costs`) with unit costs measured at
the same time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fedsim.experiments.benchmarks import command, flower_secagg, host, secagg_round
from fedsim.experiments.benchmarks.secagg_round import Setting, Spent, play
from fedsim.experiments.benchmarks.stopwatch import Seconds
from fedsim.privacy.secagg.calibration import calibrate
from fedsim.privacy.secagg.costs import round_costs
from fedsim.privacy.secagg.topology import Adversary

MILLION = 1_000_000
ROUNDS = {
    "sparse": Setting(clients=100, dimension=MILLION, dropped=5, graph="k-regular"),
    "complete": Setting(clients=20, dimension=MILLION, graph="complete"),
    "thousand": Setting(clients=1000, dimension=100_000, dropped=50, graph="k-regular", processes=2),
}
MASKS = {"masks": (12, 19)}  # neighbours
CASES = ("sparse", "complete", "masks", "thousand")


@dataclass
class Case:
    """What was measured of one case.

    Attributes:
        name: Key of `CASES`.
        what: The setting, in words.
        ours: Seconds of each repeat.
        flower: Flower's seconds in the same repeat, if run.
        rounds: Of each repeat, if it is a round.
        predicted: CPU seconds of clients and server by the cost model, of each repeat.
        bytes_predicted: Of all clients by stage, down and up.
    """

    name: str
    what: str
    ours: list[Seconds] = field(default_factory=list)
    flower: list[Seconds] = field(default_factory=list)
    rounds: list[Spent] = field(default_factory=list)
    predicted: list[tuple[float, float]] = field(default_factory=list)
    bytes_predicted: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def times(self) -> list[float]:
        """Flower's CPU seconds as a multiple of ours, in each repeat."""
        return [theirs.cpu / mine.cpu for theirs, mine in zip(self.flower, self.ours, strict=False)]


@dataclass(frozen=True)
class Target:
    """A target: CPU seconds at most (`clock="cpu"`), seconds at most, or times Flower's speed at least."""

    case: str
    limit: float
    clock: str
    kind: str = "target"

    def verdict(self, cases: Sequence[Case]) -> str:
        """Return a line with what was measured."""
        found = [case for case in cases if case.name == self.case]
        if self.clock == "times":
            aim = f"{self.kind}: {self.case}: at least {self.limit:g} times as fast as Flower"
            measured = [f"{statistics.median(case.times):.1f} ({case.what})" for case in found if case.times]
        else:
            aim = f"{self.kind}: {self.case}: at most {self.limit:g} s" + (
                " of CPU" if self.clock == "cpu" else ""
            )
            measured = [_both(self.clock, case) for case in found]
        return f"{aim}; measured: {', '.join(measured) or 'not measured'}"


def _both(clock: str, case: Case) -> str:
    wall = statistics.median(one.wall for one in case.ours)
    cpu = statistics.median(one.cpu for one in case.ours)
    return f"{cpu:.2f} s of CPU in {wall:.2f} s" if clock == "cpu" else f"{wall:.2f} s ({cpu:.2f} s of CPU)"


TARGETS = [
    Target("sparse", 3.0, "cpu"),
    Target("complete", 8.0, "times"),
    Target("masks", 3.0, "times"),
    Target("thousand", 10.0, "wall"),
    Target("sparse", 1.5, "cpu", "stretch"),
    Target("complete", 12.0, "times", "stretch"),
    Target("masks", 6.0, "times", "stretch"),
]


def measure(name: str, repeats: int, seed: int, adversary: Adversary) -> list[Case]:
    """Run a case with repeats."""
    if name in MASKS:
        return [_masks(name, neighbours, repeats) for neighbours in MASKS[name]]
    setting = replace(ROUNDS[name], seed=seed, adversary=adversary)
    spec = setting.spec
    what = f"{spec.clients} clients, {spec.degree} neighbours, threshold {spec.threshold}, {adversary.value}"
    case = Case(name, what)
    costs = round_costs(spec, dropped=setting.dropped)
    for stage, message in costs.messages.items():
        asked = setting.clients - (setting.dropped if stage.value in ("confirm", "unmask") else 0)
        came = setting.clients - (setting.dropped if stage.value in ("upload", "confirm", "unmask") else 0)
        case.bytes_predicted[stage.value] = message.down * asked, message.up * came
    for _ in range(repeats):
        spent = play(setting)
        case.rounds.append(spent)
        case.ours.append(Seconds(spent.wall, spent.seconds.cpu) if setting.processes else spent.seconds)
        unit = calibrate(spec.encoding, clock=time.process_time)
        clients = costs.client.seconds(unit) * (setting.clients - setting.dropped)
        case.predicted.append((clients, costs.server.seconds(unit)))
        if name == "complete":
            case.flower.append(_flower(setting))
    return [case]


def _flower(setting: Setting) -> Seconds:
    """Run the same by Flower's SecAgg+."""
    nodes = range(1, setting.clients + 1)
    updates = {
        node: flower_secagg.Update(secagg_round.update_of(node - 1, setting.dimension, setting.seed))
        for node in nodes
    }
    spec = setting.spec
    cohort = flower_secagg.Cohort(
        updates, num_shares=spec.clients, reconstruction_threshold=spec.threshold, max_weight=1.0
    )
    outcome = cohort.round(np.zeros(setting.dimension, np.float32))
    mean = np.mean([update.vector for update in updates.values()], axis=0)
    if outcome.mean is None or np.abs(outcome.mean - mean).max() > 1e-4:
        raise RuntimeError(f"Flower's mean is wrong: {outcome.server_error} {outcome.log}")
    return outcome.seconds


def _masks(name: str, neighbours: int, repeats: int) -> Case:
    case = Case(name, f"{neighbours} neighbours")
    for _ in range(repeats):
        case.ours.append(secagg_round.mask_seconds(neighbours, MILLION))
        case.flower.append(flower_secagg.mask_seconds(neighbours, MILLION))
    return case


def round_table(case: Case) -> Table:
    """Return a round by stage: medians of CPU seconds, and bytes against those predicted."""
    made = Table(title=f"{case.name}: {case.what}")
    made.add_column("stage", no_wrap=True)
    columns = ("clients CPU s", "server CPU s", "MB down", "predicted", "MB up", "predicted")
    for column in columns:
        made.add_column(column, justify="right", no_wrap=True)
    last = case.rounds[-1]
    for stage in last.server:
        down, up = case.bytes_predicted.get(stage, (0.0, 0.0))
        sizes = [last.down.get(stage, 0), down, last.up.get(stage, 0), up]
        clients = [spent.clients[stage].cpu for spent in case.rounds] if stage in last.clients else []
        made.add_row(
            stage,
            f"{statistics.median(clients):.3f}" if clients else "",
            f"{statistics.median(spent.server[stage].cpu for spent in case.rounds):.3f}",
            *(f"{size / 1e6:.3f}" if size else "" for size in sizes),
        )
    made.add_section()
    made.add_row("all", *(f"{_median(case, each):.3f}" for each in (_clients, _server)))
    predicted = (statistics.median(each[index] for each in case.predicted) for index in (0, 1))
    made.add_row("predicted", *(f"{each:.3f}" for each in predicted))
    return made


def _clients(spent: Spent) -> float:
    return sum(each.cpu for each in spent.clients.values())


def _server(spent: Spent) -> float:
    return sum(each.cpu for each in spent.server.values())


def _median(case: Case, of: Callable[[Spent], float]) -> float:
    return statistics.median(map(of, case.rounds))


def table(cases: Sequence[Case]) -> Table:
    """Return one line for each case: medians, and Flower's multiples."""
    made = Table(title="Secure aggregation: seconds, medians; times by CPU seconds, lowest to highest")
    for name in ("case", "what"):
        made.add_column(name, no_wrap=True)
    for name in ("CPU s", "s", "Flower CPU", "Flower", "times", "over repeats"):
        made.add_column(name, justify="right", no_wrap=True)
    for case in cases:
        cells = [f"{statistics.median(getattr(s, c) for s in case.ours):.3f}" for c in ("cpu", "wall")]
        if case.flower:
            cells += [f"{statistics.median(getattr(s, c) for s in case.flower):.3f}" for c in ("cpu", "wall")]
            cells += [
                f"{statistics.median(case.times):.1f}",
                f"{min(case.times):.1f} to {max(case.times):.1f}",
            ]
        made.add_row(case.name, case.what, *cells)
    return made


def as_json(hosts: Sequence[object], settings: dict[str, Any], cases: Sequence[Case]) -> str:
    """Return everything as JSON."""
    tree = {
        "settings": settings,
        "host": {"before": hosts[0], "after": hosts[-1]},
        "cases": [asdict(case) | {"times": case.times} for case in cases],
        "targets": [target.verdict(cases) for target in TARGETS],
    }
    return json.dumps(tree, indent=2) + "\n"


def _cases(text: str) -> list[str]:
    if unknown := [name for name in text.split(",") if name not in CASES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}: must be of {', '.join(CASES)}")
    return text.split(",")


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> None:
    """Print the tables, and write them where asked."""
    parser = command.arguments(__doc__)
    parser.add_argument(
        "--cases", type=_cases, default=list(CASES), help=f"of {','.join(CASES)} (default: all)"
    )
    parser.add_argument("--repeats", type=command.positive, default=3, help="of each (default: 3)")
    parser.add_argument(
        "--adversary",
        type=Adversary,
        choices=list(Adversary),
        default=Adversary.SEMI_HONEST,
        help="what the rounds withstand (default: semi-honest)",
    )
    given = parser.parse_args(arguments)
    console = console or command.console()
    before, cases = host.describe(), []
    for name in given.cases:
        cases += measure(name, given.repeats, given.seed, given.adversary)
    settings = {"repeats": given.repeats, "seed": given.seed, "adversary": given.adversary.value}
    if given.json:
        given.json.write_text(as_json([before, host.describe()], settings, cases))
    for case in cases:
        if case.rounds:
            console.print(round_table(case))
    console.print(table(cases))
    for target in TARGETS:
        if target.case in given.cases:
            console.print(target.verdict(cases), highlight=False, markup=False)


if __name__ == "__main__":
    main()
