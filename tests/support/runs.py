"""Two small runs, the comparison of two runs, and reading of ledgers."""

from typing import Any

import fedsim
from fedsim.mechanisms import loads

CNN = """
name = "cnn"
rounds = 2
[data]
clients = 8
partition = "dirichlet"
held-out = 0.2
[model]
name = "cnn"
width = 0.25
[client]
momentum = 0.9
learning-rate = 0.02
[server]
strategy = "fedadam"
cohort = 5
client-evaluation = "all"
"""

LSTM = """
name = "lstm"
rounds = 2
[data]
source = "stdlib"
partition = "natural"
clients = 9
sequence-length = 20
max-characters = 1500
[model]
name = "lstm"
hidden = 16
layers = 2
[client]
steps = 5
[server]
cohort = 5
sampling = "poisson"
weighting = "uniform"
"""


def bits(run: fedsim.Run) -> tuple[bytes, list[dict[str, Any]]]:
    """Return what two runs must have alike: the model's bytes, and the metrics but for times."""
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in run.rows]
    return (run.path / "model.safetensors").read_bytes(), rows


def open_bits(run: fedsim.Run) -> tuple[bytes, list[dict[str, Any]]]:
    """Return the bits of a run but for the bytes of secure aggregation, which differ between real and ideal."""
    model, rows = bits(run)
    return model, [{k: v for k, v in row.items() if not k.startswith("secagg-bytes")} for row in rows]


def private_bits(run: fedsim.Run) -> Any:
    """Return the bits of a run, its ledger and its epsilons."""
    return bits(run), run.ledger.read_bytes(), run.manifest["epsilon"]


def events_of(run: fedsim.Run) -> list[Any]:
    """Return the events of a run's ledger, each of its mechanism's class."""
    return [loads(line) for line in run.ledger.read_text().splitlines()]
