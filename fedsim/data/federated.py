"""`FederatedData`: a source partitioned over clients, prepared once, memory-mapped by every process.

Preparing writes plain NumPy arrays into the cache folder (`FEDSIM_CACHE`, else `$XDG_CACHE_HOME/fedsim`, else
`~/.cache/fedsim`), sorted by client, so that a client's examples are one slice. Opening maps the files: without a
copy, shared by all processes of the machine, and instantly.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.catalogue import Kind, Targets
from fedsim.data import cache
from fedsim.data.arrays import MOST_LABELS, values_in
from fedsim.data.cache import META
from fedsim.data.inputs import told
from fedsim.data.raw import Raw, load_raw, state_of
from fedsim.data.spec import DataSpec
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.sections import DataSection
from fedsim.streams import numpy_stream

log = logging.getLogger(__name__)

FORMAT = 3  # of the cache; another number invalidates it


@dataclass(frozen=True)
class Examples:
    """Some examples of a task.

    Attributes:
        x: `(examples, *shape)`; uint8 is read as value / 255, text has one more token than is read.
        y: Labels, `(examples,)` int64; real values, float32 `(examples,)` or `(examples, values)`; or None for
            next-character prediction.
        kind: What an input is.
    """

    x: NDArray[Any]
    y: NDArray[Any] | None
    kind: Kind

    def __len__(self) -> int:
        return len(self.x)

    def part(self, chosen: slice) -> Examples:
        """Return some of them: views, no copies."""
        return Examples(self.x[chosen], None if self.y is None else self.y[chosen], self.kind)


@dataclass(frozen=True)
class ClientData:
    """One client's examples: for training, and held out for its own evaluation (may be empty)."""

    train: Examples
    held_out: Examples


class FederatedData:
    """A prepared source, opened from its folder.

    Attributes:
        spec: Inputs and targets of the examples.
        clients: Number of clients.
        names: Names of the clients if they are users, else empty.
        sha256: Hash of all examples and their partition.
        inputs: Dtype and range of the source's inputs, and how they are scaled, in words; empty for text.
        test: The central test set.
    """

    def __init__(self, folder: Path) -> None:
        meta = cache.read_meta(folder)
        kind = Kind(meta["kind"])
        self._train, self.test = (_open(folder, side, kind) for side in ("train", "test"))
        self._starts = np.load(folder / "starts.npy")  # (clients + 1,): client i has starts[i]:starts[i + 1]
        # (clients,): how many of each client's last examples are held out
        self._held_out = np.load(folder / "held_out.npy")
        self.clients = len(self._held_out)
        self.names: tuple[str, ...] = tuple(meta["names"])
        self.sha256: str = meta["sha256"]
        self.inputs: str = meta["inputs"]
        per_token = self._train.y is None
        shape = self._train.x.shape[1:]
        self.spec = DataSpec(
            kind=kind,
            shape=(shape[0] - 1,) if per_token else shape,
            classes=meta["classes"],
            vocabulary=meta["vocabulary"],
            per_token=per_token,
            values=values_in(self._train.y),
            divisor=meta["divisor"],
        )

    def client(self, index: int) -> ClientData:
        """Return one client's examples: views, no copies."""
        if not 0 <= index < self.clients:
            raise IndexError(f"client {index} of {self.clients}")
        start, end = self._starts[index], self._starts[index + 1]
        middle = end - self._held_out[index]
        return ClientData(self._train.part(slice(start, middle)), self._train.part(slice(middle, end)))

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of examples of each client, `(clients,)`, held-out ones included."""
        sizes: NDArray[np.int64] = np.diff(self._starts)
        return sizes

    def training_sizes(self) -> NDArray[np.int64]:
        """Return the number of examples that each client trains on, `(clients,)`."""
        sizes: NDArray[np.int64] = self.sizes() - self._held_out
        return sizes

    def labels(self) -> NDArray[np.int64]:
        """Return label counts of each client, `(clients, classes)`; `(clients, 0)` without labels."""
        if self._train.y is None or self.spec.values:
            return np.zeros((self.clients, 0), dtype=np.int64)
        counts = np.zeros((self.clients, self.spec.classes), dtype=np.int64)
        np.add.at(counts, (np.repeat(np.arange(self.clients), self.sizes()), self._train.y), 1)
        return counts


def prepare(experiment: Experiment, *, verify: bool = False) -> FederatedData:
    """Return the experiment's data, prepared now or earlier.

    What was prepared earlier is checked when it is opened, by sizes, times of change and samples of each array; with
    `verify` all of it is hashed. Where it is damaged it is prepared again, with a warning.

    Raises:
        Refused: The source can't be read, lacks the task's targets, or can't be partitioned.
    """
    section, targets = experiment.data, experiment.task_entry.targets()
    folder = cache_folder() / "data" / _key(experiment, targets)
    if verify or folder not in _checked:
        if folder.exists() and (damage := cache.damage_of(folder, in_full=verify)):
            log.warning("%s: is damaged (%s), and is prepared again", folder, damage)
            cache.remove(folder)
            _opened.cache_clear()
        _checked.add(folder)
    if not (folder / META).exists():
        entry, generator = section.source_entry, numpy_stream(experiment.seed, "data-source")
        raw = load_raw(entry, section.pick(entry), generator, targets)
        _check(raw, targets, experiment)
        _write(raw, section, experiment.seed, folder)
    return _opened(folder)


def _check(raw: Raw, targets: Targets, experiment: Experiment) -> None:
    """Refuse examples without the task's targets, and labels that no model has a logit each for."""
    if raw.y_train is None:
        found = Targets.TOKENS
    else:
        found = Targets.VALUES if values_in(raw.y_train) else Targets.LABELS
    if found is not targets:
        raise Refused(
            f"task.name = {experiment.task_entry.name!r}: needs targets that are {targets}, and data.source = "
            f"{experiment.data.source!r} has {found}"
        )
    if found is Targets.LABELS and (highest := _classes(raw) - 1) >= MOST_LABELS:
        raise Refused(
            f"data.source = {experiment.data.source!r}: has the label {highest}; labels number the classes from 0, at "
            f"most {MOST_LABELS:,} of them"
        )


def _classes(raw: Raw) -> int:
    """Return the number of classes of labels: as the source says, or the highest label + 1."""
    sides = [y for y in (raw.y_train, raw.y_test) if y is not None]
    return raw.classes or int(max(y.max(initial=0) for y in sides)) + 1


def _told(raw: Raw) -> str:
    x = [raw.x_train, raw.x_test]
    return told(x, 255 if x[0].dtype == np.uint8 else None)


_checked: set[Path] = set()  # by this process
_opened = functools.lru_cache(maxsize=8)(FederatedData)


def cache_folder() -> Path:
    """Return the cache folder; its contents can be rebuilt."""
    if own := os.environ.get("FEDSIM_CACHE"):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedsim"


def _key(experiment: Experiment, targets: Targets) -> str:
    """Return the cache key: of the section, the seed, targets that differ from the source's own, and a file's state."""
    section = experiment.data.model_dump(by_alias=True, mode="json")
    state: list[Any] = [FORMAT, experiment.seed, section, sys.version_info[:3], np.__version__]
    if (path := section.get("path")) and Path(path).exists():
        files = [Path(path)] if Path(path).is_file() else sorted(Path(path).iterdir())
        state += [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    if targets is Targets.VALUES:
        state.append(targets)
    state += state_of(section["source"])
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:32]


def _write(raw: Raw, section: DataSection, seed: int, folder: Path) -> None:
    from fedsim.data.partitions import partition

    dealt, names = partition(raw, section, numpy_stream(seed, "data-partition"))
    order = np.concatenate(dealt)
    sizes = np.array([len(indices) for indices in dealt])
    held_out = np.minimum(np.round(sizes * section.held_out), np.maximum(sizes - 1, 0)).astype(np.int64)
    arrays = {
        "train_x": raw.x_train[order],
        "test_x": raw.x_test,
        "starts": np.concatenate([[0], np.cumsum(sizes)]),
        "held_out": held_out,
    }
    classes = raw.vocabulary
    if raw.y_train is not None and raw.y_test is not None:
        arrays |= {"train_y": raw.y_train[order], "test_y": raw.y_test}
        classes = raw.classes if values_in(raw.y_train) else _classes(raw)
    meta = {
        "kind": str(raw.kind),
        "classes": classes,
        "vocabulary": raw.vocabulary,
        "names": names,
        "inputs": raw.inputs or ("" if raw.kind is Kind.TEXT else _told(raw)),
        "divisor": raw.divisor,
        "sha256": cache.sha256_of(arrays),
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".draft-", dir=folder.parent, ignore_cleanup_errors=True
        ) as made:
            draft = Path(made)
            cache.write(draft, arrays, meta)
            if not (folder / META).exists():  # another process may have been faster
                draft.rename(folder)
                cache.sync_folder(folder.parent)
    except OSError as error:
        if not (folder / META).exists():
            raise Refused(
                f"cache folder {str(folder.parent)!r}: {error.strerror}; FEDSIM_CACHE may name another"
            ) from None


def _open(folder: Path, side: str, kind: Kind) -> Examples:
    labels = folder / f"{side}_y.npy"
    return Examples(_mapped(folder / f"{side}_x.npy"), _mapped(labels) if labels.exists() else None, kind)


def _mapped(path: Path) -> NDArray[Any]:
    """Map an array: shared until written to, so that PyTorch takes it without a warning."""
    return np.asarray(np.load(path, mmap_mode="c"))  # slices of a plain array cost less than a memmap's
