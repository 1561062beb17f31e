"""A plan of secure aggregation: its rounds' costs as JSON and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from fedsim.errors import Refused
from fedsim.privacy.secagg.calibration import calibrate
from fedsim.privacy.secagg.costs import Costs, Operations, bonawitz_expansion, round_costs
from fedsim.privacy.secagg.encoding import Encoding
from fedsim.privacy.secagg.spec import Policy
from fedsim.privacy.secagg.topology import Adversary, Assumptions, Topology

MOST_COHORT = 1_000_000  # beyond it nothing was ever compared with a real round
RUN, SESSION, TASK = "0" * 36, "0" * 32, "0" * 64  # of the length of real ones

Graph = Literal["auto", "complete", "k-regular"]


@dataclass(frozen=True)
class Row:
    """A cohort: its topology, its costs, and what an operation takes here."""

    topology: Topology
    costs: Costs
    unit: Operations

    @property
    def client_seconds(self) -> float:
        """Of a client that stays to the end."""
        return self.costs.client.seconds(self.unit)

    @property
    def server_seconds(self) -> float:
        """Of the server, on one core."""
        return self.costs.server.seconds(self.unit)

    @property
    def bits(self) -> int:
        """Of the modulus."""
        return self.costs.spec.encoding.ring.bits

    def as_json(self) -> dict[str, Any]:
        """Return all that is known of the cohort; bytes are means over clients that stay to the end."""
        shape, costs = self.topology, self.costs
        return {
            "cohort": shape.clients,
            "graph": "complete" if shape.complete else "k-regular",
            "degree": shape.degree,
            "threshold": shape.threshold,
            "corrupt-clients": shape.corrupt,
            "dropped-clients": shape.dropped,
            "least-survivors": costs.spec.least,
            "honest-minimum": shape.honest_minimum,
            "modulus-bits": self.bits,
            "upload-bytes": round(costs.upload),
            "extra-download-bytes": round(costs.extra_download),
            "model-bytes": costs.model,
            "stages": {
                stage.value: {"down-bytes": round(message.down), "up-bytes": round(message.up)}
                for stage, message in costs.messages.items()
            },
            "client-seconds": self.client_seconds,
            "server-core-seconds": self.server_seconds,
            "expansion": costs.expansion,
            "expansion-bonawitz-2017": bonawitz_expansion(
                shape.clients, costs.spec.encoding.dimension, costs.spec.encoding.input_bits
            ),
            "claim": shape.claim,
        }


@dataclass(frozen=True)
class Plan:
    """What is planned.

    Attributes:
        policy: What is assumed, and how updates are encoded.
        rows: A cohort each, in the order in which they were asked for.
    """

    policy: Policy
    rows: tuple[Row, ...]

    @classmethod
    def of(
        cls,
        *,
        cohorts: Sequence[str],
        parameters: int,
        corrupt: float,
        dropout: float,
        adversary: str,
        graph: Graph,
        minimum: int,
        input_bits: int,
        max_weight: int,
    ) -> Plan:
        """Return a plan, with what this machine's calibration says.

        Raises:
            Refused: A value is out of its range, or a cohort has no topology.
        """
        if parameters < 1:
            raise Refused(f"--parameters {parameters}: must be 1 or more")
        sizes = [_whole(part) for value in cohorts for part in value.split(",")]
        try:
            policy = Policy(
                assumptions=Assumptions(corrupt=corrupt, dropout=dropout, adversary=Adversary(adversary)),
                encoding=Encoding(parameters, cohort=1, input_bits=input_bits, max_weight=max_weight),
                graph=graph,
                minimum=minimum,
            )
            planned = [(policy.topology(size), _costs(policy, size)) for size in sizes]
        except ValueError as error:
            raise Refused(str(error)) from None
        unit = {
            costs.spec.encoding.ring.dtype: calibrate(costs.spec.encoding) for _, costs in reversed(planned)
        }
        rows = [Row(shape, costs, unit[costs.spec.encoding.ring.dtype]) for shape, costs in planned]
        return cls(policy, tuple(rows))

    def as_json(self) -> dict[str, Any]:
        """Return the inputs, and the cohorts with their costs."""
        assumed, encoding = self.policy.assumptions, self.policy.encoding
        return {
            "parameters": encoding.dimension,
            "corrupt": assumed.corrupt,
            "dropout": assumed.dropout,
            "adversary": assumed.adversary.value,
            "input-bits": encoding.input_bits,
            "max-weight": encoding.max_weight,
            "cohorts": [row.as_json() for row in self.rows],
        }

    def show(self, console: Console) -> None:
        """Print a table of the cohorts, and what is guaranteed; of a single one, its messages too."""
        assumed, encoding = self.policy.assumptions, self.policy.encoding
        console.print(
            f"[bold]Secure aggregation[/bold] of {encoding.dimension:,} numbers of {encoding.input_bits} bits; "
            f"{assumed.adversary.value}, {assumed.corrupt:.4g} corrupt, {assumed.dropout:.4g} dropping out\n",
            highlight=False,
        )
        console.print(self._table())
        if len(self.rows) == 1:
            console.print()
            console.print(_messages(self.rows[0].costs))
        console.print(
            "\nUpload, extra download: of a client; beside the model, which is "
            f"{size_of(self.rows[0].costs.model)} in float32. "
            "Client, server: on one core of this machine. Honest: clients in a sum, at least.",
            highlight=False,
        )
        for row in self._examples():
            console.print(
                f"\n[bold]{row.topology.clients:,} clients.[/bold] {row.topology.claim}", highlight=False
            )

    def _examples(self) -> list[Row]:
        """Return a row for each kind of graph: what is guaranteed differs from the others' in its numbers only."""
        return list({row.topology.complete: row for row in reversed(self.rows)}.values())[::-1]

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
        names = (
            "cohort",
            "neigh-\nbours",
            "thres-\nhold",
            "bits",
            "upload",
            "extra\ndownload",
            "expan-\nsion",
        )
        for name in (*names, "client", "server", "honest"):  # 80 columns wide, up to a million clients
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.rows:
            shape = row.topology
            table.add_row(
                f"{shape.clients:,}",
                f"{shape.degree:,}" + (" (all)" if shape.complete else ""),
                f"{shape.threshold:,}",
                str(row.bits),
                size_of(row.costs.upload),
                size_of(row.costs.extra_download),
                f"{row.costs.expansion:.2f}x",
                time_of(row.client_seconds),
                time_of(row.server_seconds),
                f"{shape.honest_minimum:,}",
            )
        return table


def _whole(text: str) -> int:
    try:
        size = int(text.strip().replace("_", ""))
    except ValueError:
        raise Refused(f"--cohort {text!r}: must be a whole number, or several with commas between") from None
    if size > MOST_COHORT:
        raise Refused(f"--cohort {size}: must be at most {MOST_COHORT:,}")
    return size


def _costs(policy: Policy, clients: int) -> Costs:
    spec = policy.spec(run=RUN, round_=1, session=SESSION, clients=clients, task=TASK)
    return round_costs(spec, dropped=policy.assumptions.dropped_of(clients))


def _messages(costs: Costs) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("stage")
    for name in ("to a client", "from it"):
        table.add_column(name, justify="right")
    for stage, message in costs.messages.items():
        table.add_row(stage.value, size_of(message.down), size_of(message.up))
    return table


def size_of(count: float) -> str:
    """Return a number of bytes for people.

    >>> size_of(700), size_of(4397), size_of(2_876_806), size_of(4.96e8)
    ('700 B', '4.4 kB', '2.88 MB', '496 MB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            value = count / factor
            digits = 0 if value >= 100 else 1 if unit == "kB" else 2
            return f"{value:,.{digits}f} {unit}"
    return f"{count:.0f} B"


def time_of(seconds: float) -> str:
    """Return a duration for people.

    >>> time_of(0.0153), time_of(2.51), time_of(4707), time_of(301_605)
    ('15 ms', '2.5 s', '78 min', '84 h')
    """
    for unit, factor in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= 1.5 * factor:
            value = seconds / factor
            return f"{value:,.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{1e3 * seconds:,.0f} ms" if seconds >= 0.0095 else f"{1e3 * seconds:.1f} ms"
