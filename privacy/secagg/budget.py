"""`fedsim budget secagg`: neighbours, threshold, bytes and seconds of a round of secure aggregation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from fedsim.privacy.budget import Budget, Table
from fedsim.privacy.secagg.calibration import calibrate
from fedsim.privacy.secagg.costs import Costs, bonawitz_expansion, round_costs
from fedsim.privacy.secagg.encoding import Encoding
from fedsim.privacy.secagg.spec import Policy
from fedsim.privacy.secagg.topology import Adversary, Assumptions, Topology

MOST_COHORT = 1_000_000  # larger ones were never compared with a real round
RUN, SESSION, TASK = "0" * 36, "0" * 32, "0" * 64  # as long as real ones
COLUMNS = (
    "cohort",
    "neigh-\nbours",
    "thres-\nhold",
    "bits",
    "upload",
    "extra\ndownload",
    "expan-\nsion",
    "client",
    "server",
    "honest",
)  # 80 columns wide, up to a million clients


@dataclass(frozen=True)
class Row:
    """A cohort: its topology, its costs, and seconds on one core of this machine."""

    topology: Topology
    costs: Costs
    client_seconds: float  # of a client that stays to the end
    server_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the cohort's values for JSON; bytes are means over clients that stay to the end."""
        shape, costs = self.topology, self.costs
        encoding = costs.spec.encoding
        return {
            "cohort": shape.clients,
            "graph": "complete" if shape.complete else "k-regular",
            "degree": shape.degree,
            "threshold": shape.threshold,
            "corrupt-clients": shape.corrupt,
            "dropped-clients": shape.dropped,
            "least-survivors": costs.spec.least,
            "honest-minimum": shape.honest_minimum,
            "modulus-bits": encoding.ring.bits,
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
                shape.clients, encoding.dimension, encoding.input_bits
            ),
            "claim": shape.claim,
        }

    def texts(self) -> tuple[str, ...]:
        """Return the same as texts, in the order of `COLUMNS`."""
        shape, costs = self.topology, self.costs
        return (
            f"{shape.clients:,}",
            f"{shape.degree:,}" + (" (all)" if shape.complete else ""),
            f"{shape.threshold:,}",
            str(costs.spec.encoding.ring.bits),
            size_of(costs.upload),
            size_of(costs.extra_download),
            f"{costs.expansion:.2f}x",
            time_of(self.client_seconds),
            time_of(self.server_seconds),
            f"{shape.honest_minimum:,}",
        )


class SecaggBudget(Budget):
    """Plan secure aggregation: neighbours, threshold, bytes and seconds of a round, without running one.

    Neighbours and threshold follow from assumptions on the cohort. Bytes are exact; seconds are counted operations
    times their measured duration on one core of this machine (about half a second to measure).
    """

    cohort: Annotated[list[str], "N[,N...]"]
    """Clients in a round; several, to compare."""
    parameters: Annotated[int, "D"]
    """Numbers in an update."""
    corrupt: Annotated[float, "F"] = 0.05
    """Largest fraction of the cohort that colludes with the server."""
    dropout: Annotated[float, "F"] = 0.05
    """Largest fraction of the cohort that is lost in a round."""
    adversary: Literal["semi-honest", "malicious-server"] = "semi-honest"
    """Whether the server follows the protocol."""
    graph: Literal["auto", "complete", "k-regular"] = "auto"
    """Graph of clients that share secrets; auto: few neighbours where possible."""
    minimum: Annotated[int, "M"] = 3
    """The smallest allowed cohort."""
    input_bits: Annotated[int, "P"] = 16
    """Bits of a number in a client's update."""
    max_weight: Annotated[int, "W"] = 1
    """The largest weight of a client."""

    def check(self) -> None:
        """Find each cohort's topology, and time operations. As `Budget` says."""
        if self.parameters < 1:
            raise ValueError(f"--parameters {self.parameters}: must be 1 or more")
        _ = self._rows

    @cached_property
    def _rows(self) -> list[Row]:
        """The cohorts, in the given order."""
        sizes = [_whole(part) for value in self.cohort for part in value.split(",")]
        policy = Policy(
            assumptions=Assumptions(self.corrupt, self.dropout, Adversary(self.adversary)),
            encoding=Encoding(
                self.parameters, cohort=1, input_bits=self.input_bits, max_weight=self.max_weight
            ),
            graph=self.graph,
            minimum=self.minimum,
        )
        specs = [policy.spec(run=RUN, round_=1, session=SESSION, clients=size, task=TASK) for size in sizes]
        units = {spec.encoding.ring.dtype: calibrate(spec.encoding) for spec in reversed(specs)}
        rows = []
        for spec in specs:
            costs = round_costs(spec, dropped=policy.assumptions.dropped_of(spec.clients))
            unit = units[spec.encoding.ring.dtype]
            seconds = costs.client.seconds(unit), costs.server.seconds(unit)
            rows.append(Row(policy.topology(spec.clients), costs, *seconds))
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return the inputs, and the cohorts with their costs."""
        return {
            "parameters": self.parameters,
            "corrupt": self.corrupt,
            "dropout": self.dropout,
            "adversary": self.adversary,
            "input-bits": self.input_bits,
            "max-weight": self.max_weight,
            "cohorts": [row.to_json() for row in self._rows],
        }

    def blocks(self) -> Iterator[str | Table]:
        """Yield a table of the cohorts, and the guarantees; for a single cohort also its messages."""
        yield (
            f"*Secure aggregation* of {self.parameters:,} numbers of {self.input_bits} bits; "
            f"{self.adversary}, {self.corrupt:.4g} corrupt, {self.dropout:.4g} dropping out\n"
        )
        rows = self._rows
        yield Table("", COLUMNS, [row.texts() for row in rows], gap=1)
        if len(rows) == 1:
            messages = rows[0].costs.messages.items()
            texts = [(stage.value, size_of(each.down), size_of(each.up)) for stage, each in messages]
            yield ""
            yield Table("", ("stage", "to a client", "from it"), texts, gap=2, named=True)
        yield (
            "\nUpload, extra download: of a client; beside the model, which is "
            f"{size_of(rows[0].costs.model)} in float32. "
            "Client, server: on one core of this machine. Honest: clients in a sum, at least."
        )
        # One row for each kind of graph: guarantees within a kind differ only in numbers.
        for row in list({row.topology.complete: row for row in reversed(rows)}.values())[::-1]:
            yield f"\n*{row.topology.clients:,} clients.* {row.topology.claim}"


def _whole(text: str) -> int:
    try:
        size = int(text.strip().replace("_", ""))
    except ValueError:
        raise ValueError(
            f"--cohort {text!r}: must be a whole number, or several with commas between"
        ) from None
    if size > MOST_COHORT:
        raise ValueError(f"--cohort {size}: must be at most {MOST_COHORT:,}")
    return size


def size_of(count: float) -> str:
    """Format a number of bytes.

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
    """Format a duration.

    >>> time_of(0.0153), time_of(2.51), time_of(4707), time_of(301_605)
    ('15 ms', '2.5 s', '78 min', '84 h')
    """
    for unit, factor in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= 1.5 * factor:
            value = seconds / factor
            return f"{value:,.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{1e3 * seconds:,.0f} ms" if seconds >= 0.0095 else f"{1e3 * seconds:.1f} ms"
