"""The timed work: cases, and the files for a competitor.

Competitors run in their own processes, and one of them in its own environment, so this module needs only NumPy. They
share one folder: a file that describes the work, the examples sorted by client, a test set, and the initial weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PARAMETERS = 215_370  # of the CNN: (25 + 1) 16 + (25 * 16 + 1) 32 + (1568 + 1) 128 + (128 + 1) 10


@dataclass(frozen=True)
class Case:
    """A federation to time.

    Attributes:
        clients: Number of clients.
        cohort: Clients that train in a round.
        examples: Of each client; a round is one pass over them.
        batch: Examples in a step of SGD.
        learning_rate: Of that step.
    """

    clients: int
    cohort: int
    examples: int
    batch: int = 10
    learning_rate: float = 0.1


# At these rates a few rounds lower the test loss considerably, and more would lower it further.
CASES = {
    "cross-device": Case(clients=1000, cohort=100, examples=10, learning_rate=0.05),
    "cross-silo": Case(clients=10, cohort=10, examples=600, learning_rate=0.001),
}


@dataclass(frozen=True)
class Work:
    """A case, its number of rounds, and its files.

    Attributes:
        case: The federation.
        warmup: Untimed rounds at the start.
        timed: Timed rounds; one more follows, in which fedsim evaluates.
        seed: Of cohorts and batches.
        cores: Most processes or threads.
        folder: Folder of the arrays.
    """

    case: Case
    warmup: int
    timed: int
    seed: int
    cores: int
    folder: Path

    @property
    def rounds(self) -> int:
        """Total number of rounds."""
        return self.warmup + self.timed + 1

    def save(self) -> Path:
        """Write `work.json` into the folder, and return its path."""
        path = self.folder / "work.json"
        path.write_text(json.dumps(asdict(self) | {"folder": str(self.folder)}, indent=2))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Work:
        """Read what `save` wrote."""
        tree = json.loads(Path(path).read_text())
        return cls(**tree | {"case": Case(**tree["case"]), "folder": Path(tree["folder"])})

    def save_arrays(
        self,
        train: tuple[NDArray[Any], NDArray[np.int64]],
        test: tuple[NDArray[Any], NDArray[np.int64]],
        weights: Mapping[str, NDArray[Any]],
    ) -> None:
        """Write inputs `(examples, 1, 28, 28)` and labels, with training examples sorted by client, and the weights."""
        for side, (x, y) in (("train", train), ("test", test)):
            np.save(self.folder / f"{side}_x.npy", x)
            np.save(self.folder / f"{side}_y.npy", y)
        np.savez(self.folder / "weights.npz", *weights.values())

    def clients(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return inputs `(clients, examples, 1, 28, 28)` and labels `(clients, examples)`, mapped."""
        x, y = (np.load(self.folder / f"train_{axis}.npy", mmap_mode="c") for axis in "xy")
        shape = (self.case.clients, self.case.examples)
        return x.reshape(*shape, *x.shape[1:]), y.reshape(shape)

    def test(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the test set: inputs `(examples, 1, 28, 28)` and labels `(examples,)`."""
        return np.load(self.folder / "test_x.npy"), np.load(self.folder / "test_y.npy")

    def weights(self) -> list[NDArray[np.float32]]:
        """Return the initial weights, in the order of the layers, weight before bias."""
        with np.load(self.folder / "weights.npz") as file:
            return [file[f"arr_{place}"] for place in range(len(file.files))]

    def stream(self, *name: int) -> np.random.Generator:
        """Return the random stream of a name made of up to three whole numbers below 2^32."""
        key = sum(part << (32 * place) for place, part in enumerate((self.seed, *name)))
        return np.random.Generator(np.random.Philox(key=key))

    def cohort(self, round_: int) -> NDArray[np.int64]:
        """Draw the clients of a round, counted from 1, in ascending order."""
        drawn = self.stream(0, round_).choice(self.case.clients, size=self.case.cohort, replace=False)
        return np.sort(drawn)


@dataclass
class Report:
    """A competitor's report.

    Attributes:
        began: Beginning of the first round, in seconds of `time.time`.
        seconds: Of each round, including warm-up and the last one.
        test_loss: Mean cross-entropy (nats) on the test set after them.
        parameters: Number of the model's parameters.
        versions: Of its packages.
    """

    began: float
    seconds: list[float]
    test_loss: float
    parameters: int
    versions: dict[str, str]

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read what `save` wrote."""
        return cls(**json.loads(Path(path).read_text()))
