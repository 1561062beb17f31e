"""Sets up the work: synthetic images, an experiment over them, and the same as plain arrays for the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsim import Experiment
from fedsim.experiments.benchmarks.work import Work

TEST_EXAMPLES = 1000
CLASSES = 10


def images(
    examples: int, generator: np.random.Generator, patterns: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw images with labels: a label's pattern plus noise of the same scale.

    Args:
        examples: Number of images.
        generator: Draws labels and noise.
        patterns: `(labels, 28, 28)`, of mean 0 and deviation 1.

    Returns:
        Images `(examples, 28, 28)` of mean 0 and deviation 1, and their labels.
    """
    y = generator.integers(len(patterns), size=examples)
    x = generator.standard_normal((examples, 28, 28), dtype=np.float32)
    return (x + patterns[y]) * np.float32(0.5**0.5), y


def write_source(
    path: Path, examples: int, generator: np.random.Generator, *, as_bytes: bool = False
) -> None:
    """Write a file for fedsim's `npz` source; `as_bytes`: uint8 around 128, a quarter of the size."""
    cells = generator.standard_normal((CLASSES, 7, 7), dtype=np.float32)
    patterns = np.kron(cells, np.ones((1, 4, 4), dtype=np.float32))
    train, test = (images(count, generator, patterns) for count in (examples, TEST_EXAMPLES))
    x_train, x_test = (_as_bytes(x) if as_bytes else x for x in (train[0], test[0]))
    np.savez(path, x_train=x_train, y_train=train[1], x_test=x_test, y_test=test[1])


def _as_bytes(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.rint(128 + 40 * x), 0, 255).astype(np.uint8)


def experiment_text(work: Work, model: str) -> str:
    """Return the work as an experiment file, with the tables `model`."""
    case = work.case
    return f"""
name = "benchmark"
seed = {work.seed}
rounds = {work.rounds}

[data]
source = "npz"
path = "source.npz"
clients = {case.clients}
partition = "iid"

{model}

[client]
epochs = 1
batch-size = {case.batch}
learning-rate = {case.learning_rate}

[server]
strategy = "fedavg"
cohort = {case.cohort}
evaluate-every = {work.rounds}  # once, in the last round, which is not timed

[runtime]
workers = {work.cores}
"""


def set_up(work: Work) -> Path:
    """Write everything into the work's folder: for fedsim the experiment, for the others arrays and weights.

    The others get the same clients and weights as fedsim with its seed.

    Returns:
        The path of the work's file.
    """
    from fedsim.data import prepare
    from fedsim.models import initial_model
    from fedsim.tasks.build import task_of

    case = work.case
    write_source(work.folder / "source.npz", case.clients * case.examples, work.stream(3))
    (work.folder / "experiment.toml").write_text(
        experiment_text(work, '[model]\nname = "cnn"\nwidth = 0.5\nhidden = 128')
    )
    experiment = Experiment.load(work.folder / "experiment.toml")
    with cache_in(work.folder):
        data = prepare(experiment)
    clients = [data.client(client).train for client in range(case.clients)]
    if any(len(client) != case.examples for client in clients):
        raise RuntimeError("the partition is not equal")
    state = initial_model(experiment, task_of(experiment, data.spec)).state_dict()
    work.save_arrays(
        (
            np.concatenate([client.x for client in clients]),
            np.concatenate([_labels(client.y) for client in clients]),
        ),
        (np.asarray(data.test.x), _labels(data.test.y)),
        {name: tensor.contiguous().numpy() for name, tensor in state.items()},
    )
    return work.save()


@contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Let fedsim keep its prepared data in `cache` below a folder, inside the block."""
    before = os.environ.get("FEDSIM_CACHE")
    os.environ["FEDSIM_CACHE"] = str(folder / "cache")
    try:
        yield
    finally:
        del os.environ["FEDSIM_CACHE"]
        if before is not None:
            os.environ["FEDSIM_CACHE"] = before


def _labels(y: NDArray[np.int64] | None) -> NDArray[np.int64]:
    if y is None:
        raise TypeError("images without labels")
    return np.asarray(y)
