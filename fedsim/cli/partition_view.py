"""An experiment's partition: a table, bars in the terminal, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedsim.data import FederatedData
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


class View:
    """Summary of an experiment's partition.

    Attributes:
        sizes: Examples of each client, `(clients,)`.
        labels: Number of each client's examples with each label, `(clients, classes)`, or `(clients, 0)`.
    """

    def __init__(self, experiment: Experiment, data: FederatedData) -> None:
        self.name = experiment.name
        self.source = f"{experiment.data.source}, {experiment.data.partition}"
        self.data = data
        self.sizes = data.sizes()
        self.labels = data.labels()

    def as_json(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        spec = self.data.spec
        return {
            "clients": len(self.sizes),
            "names": list(self.data.names),
            "sizes": self.sizes.tolist(),
            "labels": self.labels.tolist(),
            "test-examples": len(self.data.test),
            "kind": str(spec.kind),
            "shape": list(spec.shape),
            "classes": spec.classes,
            "inputs": self.data.inputs,
            "sha256": self.data.sha256,
            **({"values": spec.values} if spec.values else {}),
        }

    def show(self, console: Console) -> None:
        """Print figures and a bar for each client (of many, the largest)."""
        low, middle, high = np.quantile(self.sizes, [0, 0.5, 1]).astype(int)
        spec = self.data.spec
        shape = "x".join(map(str, spec.shape))
        plural = "s" if spec.values > 1 else ""
        targets = f"{spec.values} real-valued target{plural}" if spec.values else f"{spec.classes} classes"
        console.print(f"[bold]{self.name}[/bold]: {self.source}; {spec.kind} {shape}, {targets}")
        console.print(
            f"{self.sizes.sum():,} examples with {len(self.sizes):,} clients "
            f"(smallest {low:,}, median {middle:,}, largest {high:,}); {len(self.data.test):,} in the central test set"
        )
        if self.data.inputs:
            console.print(f"inputs {self.data.inputs}")
        console.print(f"data-sha256 {self.data.sha256}\n")
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("client", justify="right", max_width=24, no_wrap=True)
        table.add_column("examples", justify="right")
        if self.labels.shape[1]:
            table.add_column("labels", justify="right")
        table.add_column(self._legend(), no_wrap=True)
        names = self.data.names or [str(client) for client in range(len(self.sizes))]
        for client, name in enumerate(names[:MOST]):
            cells = [name, f"{self.sizes[client]:,}"]
            if self.labels.shape[1]:
                cells.append(str(np.count_nonzero(self.labels[client])))
            table.add_row(*cells, self._bar(client))
        console.print(table)
        if len(self.sizes) > MOST:
            console.print(
                f"... and {len(self.sizes) - MOST:,} more; --json has all, --picture FILE.png draws all"
            )

    def _legend(self) -> Text:
        colours = COLOURS[: self.labels.shape[1]]
        keys = [(f"█{label} ", colour) for label, colour in enumerate(colours)]
        return Text.assemble("examples by label: " if keys else "examples", *keys)

    def _bar(self, client: int) -> Text:
        """Draw a client's examples, coloured by label if there are few labels."""
        scale = BAR / self.sizes.max()
        if not 0 < self.labels.shape[1] <= len(COLOURS):
            return Text("█" * max(round(self.sizes[client] * scale), 1), COLOURS[0])
        ends = np.round(np.cumsum(self.labels[client]) * scale).astype(int)
        widths = np.diff(ends, prepend=0)
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
        bars.set_title(f"{self.name}: {self.source}, {clients:,} clients", loc="left")
        bars.spines[["top", "right"]].set_visible(False)
        try:
            figure.savefig(path, dpi=150)
        except (OSError, ValueError) as error:
            raise Refused(f"--picture {str(path)!r}: {error}") from None
