"""An experiment's partition: a table, bars in the terminal, and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedsim.data import DataSpec, FederatedData
from fedsim.errors import Refused
from fedsim.experiment import Experiment

MOST = 40  # clients shown in the terminal
BAR = 40  # characters of the longest bar
COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#bbbbbb",
    "#222255",
    "#999933",
    "#44aa99",
)


@dataclass(frozen=True)
class View:
    """Summary of a partition.

    Attributes:
        sizes: Examples of each client, `(clients,)`.
        labels: Number of each client's examples with each label, `(clients, classes)`, or `(clients, 0)`.
    """

    name: str
    source: str
    partition: str
    data: DataSpec
    test_examples: int
    names: tuple[str, ...]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]
    sha256: str

    @classmethod
    def of(cls, experiment: Experiment, data: FederatedData) -> View:
        """Summarise an experiment's data."""
        return cls(
            experiment.name,
            experiment.data.source,
            experiment.data.partition,
            data.spec,
            len(data.test),
            data.names,
            data.sizes(),
            data.labels(),
            data.sha256,
        )

    def as_json(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {
            "clients": len(self.sizes),
            "names": list(self.names),
            "sizes": self.sizes.tolist(),
            "labels": self.labels.tolist(),
            "test-examples": self.test_examples,
            "kind": str(self.data.kind),
            "shape": list(self.data.shape),
            "classes": self.data.classes,
            "sha256": self.sha256,
        } | ({"values": self.data.values} if self.data.values else {})

    def _targets(self) -> str:
        if not self.data.values:
            return f"{self.data.classes} classes"
        return f"{self.data.values} real-valued target{'s' * (self.data.values > 1)}"

    def show(self, console: Console) -> None:
        """Print figures and a bar for each client (of many, the largest)."""
        low, middle, high = np.quantile(self.sizes, [0, 0.5, 1]).astype(int)
        console.print(
            f"[bold]{self.name}[/bold]: {self.source}, {self.partition}; {self.data.kind} "
            f"{'x'.join(map(str, self.data.shape))}, {self._targets()}"
        )
        console.print(
            f"{self.sizes.sum():,} examples with {len(self.sizes):,} clients "
            f"(smallest {low:,}, median {middle:,}, largest {high:,}); {self.test_examples:,} in the central test set"
        )
        console.print(f"data-sha256 {self.sha256}\n")
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("client", justify="right", max_width=24, no_wrap=True)
        table.add_column("examples", justify="right")
        if self.labels.shape[1]:
            table.add_column("labels", justify="right")
        table.add_column(self._legend(), no_wrap=True)
        shown = range(len(self.sizes))[:MOST]
        for client in shown:
            cells = [self.names[client] if self.names else str(client), f"{self.sizes[client]:,}"]
            if self.labels.shape[1]:
                cells.append(str(np.count_nonzero(self.labels[client])))
            table.add_row(*cells, self._bar(client))
        console.print(table)
        if len(self.sizes) > MOST:
            console.print(
                f"... and {len(self.sizes) - MOST:,} more; --json has all, --picture FILE.png draws all"
            )

    def _legend(self) -> Text:
        classes = min(self.labels.shape[1], len(COLOURS))
        return Text.assemble(
            "examples by label: " if classes else "examples",
            *[(f"█{k} ", COLOURS[k]) for k in range(classes)],
        )

    def _bar(self, client: int) -> Text:
        """Draw a client's examples, coloured by label if there are few labels."""
        scale = BAR / self.sizes.max()
        if not 0 < self.labels.shape[1] <= len(COLOURS):
            return Text("█" * max(round(self.sizes[client] * scale), 1), COLOURS[0])
        ends = np.round(np.cumsum(self.labels[client]) * scale).astype(int)
        widths = np.diff(np.concatenate([[0], ends]))
        return Text.assemble(*[("█" * int(width), COLOURS[k]) for k, width in enumerate(widths)])

    def draw(self, path: Path) -> None:
        """Write a picture of each client's examples and labels, as PNG, SVG or PDF by the file's ending.

        Raises:
            Refused: The file can't be written.
        """
        from matplotlib.figure import Figure

        clients, classes = self.labels.shape
        figure = Figure(figsize=(10, 5.5 if classes else 3.5), layout="constrained")
        if classes:
            bars, heat = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.4])
            shares = self.labels / np.maximum(self.labels.sum(axis=1, keepdims=True), 1)
            image = heat.imshow(
                shares.T, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest"
            )
            heat.set(xlabel="client", ylabel="label", yticks=range(classes) if classes <= 20 else [])
            figure.colorbar(image, ax=heat, label="share of the client's examples")
        else:
            bars = figure.subplots()
            bars.set(xlabel="client")
        bars.bar(range(clients), self.sizes, width=1.0 if clients > 60 else 0.8, color=COLOURS[0])
        bars.set(ylabel="examples", xlim=(-0.5, clients - 0.5))
        bars.set_title(f"{self.name}: {self.source}, {self.partition}, {clients:,} clients", loc="left")
        bars.spines[["top", "right"]].set_visible(False)
        try:
            figure.savefig(path, dpi=150)
        except (OSError, ValueError) as error:
            raise Refused(f"--picture {str(path)!r}: {error}") from None
