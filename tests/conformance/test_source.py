"""What holds for every source of data: shapes, dtypes, targets, users, and that the seed decides all that is drawn.

A new source gets a line in `CASES`. Nothing here is downloaded: what a source reads, the tests write.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import fedsim
from fedsim import Experiment, Refused
from fedsim.catalogue import SOURCES, Kind, Targets
from fedsim.data import Raw, prepare
from fedsim.data.raw import load_raw
from fedsim.streams import numpy_stream
from tests.support.tasks import task_of

TEXTS = {f"user-{i}": [chr(ord("a") + i) * 40, "the end"] for i in range(12)}
Write = Callable[[NDArray[np.float32], NDArray[Any]], None]


def arrays(path: str) -> Write:
    """Return what writes a NumPy file."""
    return lambda x, y: np.savez(path, x_train=x[8:], y_train=y[8:], x_test=x[:8], y_test=y[:8])


def tables(*splits: str) -> Write:
    """Return what writes a folder of parquet files."""

    def write(x: NDArray[np.float32], y: NDArray[Any]) -> None:
        Path("folder").mkdir()
        for split in splits:
            columns = {"x": x.tolist(), "label": y.tolist(), "who": [f"user-{i % 6}" for i in range(len(x))]}
            pl.DataFrame(columns).write_parquet(f"folder/{split}.parquet")

    return write


def text(x: NDArray[np.float32], y: NDArray[Any]) -> None:
    Path("data.json").write_text(json.dumps(TEXTS))
    Path("data.txt").write_text("to be or not to be " * 20)


LSTM = "model={name = 'lstm', hidden = 4, layers = 1}"
SHORT = ("data.sequence-length=10", "data.min-characters=20", LSTM)
# What the experiment sets beside the source; what writes its files; whether the seed decides which examples there are.
CASES: dict[str, tuple[str, tuple[str, ...], Write | None, bool]] = {
    "digits": ("digits", (), None, True),
    "diabetes": ("diabetes", (), None, True),
    "synthetic": ("synthetic", ("data.users=9", "data.features=5"), None, True),
    "stdlib": ("stdlib", ("data.max-characters=500", *SHORT), None, True),
    "text-json": ("text-json", ("data.path=data.json", *SHORT), text, True),
    "npz": ("npz", ("data.path=data.npz",), arrays("data.npz"), False),
    "parquet": ("huggingface", ("data.path=folder", "data.client=who"), tables("train", "test"), False),
    "parquet without a test": ("huggingface", ("data.path=folder", "data.client=who"), tables("train"), True),
    "own arrays": ("own", ("data.path=data.npz", "data.classes=3"), arrays("data.npz"), False),
    "own text": ("own", ("data.path=data.txt", *SHORT[:1], LSTM), text, False),
    "a user's": ("tests.toys.own_source:sides", ("data.points=40", "data.slope=2.0"), None, True),
}
# Sources whose targets may be real values as well.
VALUES = ("diabetes", "npz", "parquet", "parquet without a test", "own arrays")


def setting(name: str, *more: str) -> Experiment:
    """Return an experiment with a case's source."""
    source, overrides, *_ = CASES[name]
    base = "[data]\npartition = 'iid'\nclients = 4\n[server]\ncohort = 2\n[runtime]\nengine = 'sequential'"
    return Experiment.from_toml(base, ["model.name=linear", f"data.source={source}", *overrides, *more])


def load(experiment: Experiment) -> Raw:
    """Return what the source of an experiment returns."""
    entry, generator = experiment.data.source_entry, numpy_stream(experiment.seed, "data-source")
    return load_raw(entry, experiment.data.pick(entry), generator, experiment.task_entry.targets())


def sides(raw: Raw) -> list[tuple[NDArray[Any], NDArray[Any] | None]]:
    return [(raw.x_train, raw.y_train), (raw.x_test, raw.y_test)]


def same(one: Raw, other: Raw) -> bool:
    """Say whether two sources' examples are the same, and of the same users."""
    pairs = [
        *((getattr(one, key), getattr(other, key)) for key in ("x_train", "y_train", "x_test", "y_test")),
        (one.user, other.user),
    ]
    alike = [a is b or (a is not None and b is not None and np.array_equal(a, b)) for a, b in pairs]
    return all(alike) and one.users == other.users


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    """Return a case's name, when its files are written."""
    write(request.param, np.arange(32) % 3)
    return str(request.param)


def write(name: str, y: NDArray[Any]) -> None:
    if (writes := CASES[name][2]) is not None:
        writes(np.random.default_rng(5).normal(size=(len(y), 3)).astype(np.float32), y)


def test_every_source_is_among_the_cases() -> None:
    assert {source for source, *_ in CASES.values() if ":" not in source} == set(SOURCES)


def test_examples_have_the_dtypes_and_shapes_of_their_kind(name: str) -> None:
    experiment = setting(name)
    raw = load(experiment)
    axes, dtypes = {
        Kind.IMAGE: (4, {np.dtype(np.uint8), np.dtype(np.float32)}),
        Kind.FEATURES: (2, {np.dtype(np.float32)}),
        Kind.TEXT: (2, {np.dtype(np.uint8)}),
    }[raw.kind]
    assert len(raw.x_test) > 0
    assert (len(raw.x_train) > 0) != experiment.data.source_entry.by_clients
    assert raw.x_train.shape[1:] == raw.x_test.shape[1:]
    assert raw.x_train.dtype == raw.x_test.dtype
    for x, y in sides(raw):
        assert (x.ndim, x.dtype in dtypes) == (axes, True)
        assert np.isfinite(x).all()
        assert y is None or len(y) == len(x)
    if raw.kind is Kind.TEXT:
        assert 0 < raw.x_test.max() < raw.vocabulary
    else:
        assert raw.vocabulary == 0


def test_targets_are_those_of_the_task_that_the_source_is_for(name: str) -> None:
    experiment = setting(name)
    raw, targets = load(experiment), experiment.task_entry.targets()
    for _, y in sides(raw):
        assert (y is None) == (targets is Targets.TOKENS)
        if y is not None:
            assert y.dtype == (np.int64 if targets is Targets.LABELS else np.float32)
            assert y.ndim == 1
            assert targets is Targets.VALUES or y.min(initial=0) >= 0
    spec = prepare(experiment).spec
    assert spec.targets is targets
    if targets is Targets.LABELS:
        assert raw.y_test is not None
        assert len(np.unique(raw.y_test)) > 1
        assert max(int(y.max(initial=0)) for _, y in sides(raw) if y is not None) < spec.classes


@pytest.mark.parametrize("case", VALUES)
def test_targets_may_be_real_values(case: str) -> None:
    write(case, np.linspace(-1, 1, 32))
    experiment = setting(case, "task.name=regression")
    if case == "own arrays":
        with pytest.raises(Refused, match=r"data\.classes = 3: real-valued targets have no classes"):
            load(experiment)
        return
    for _, y in sides(load(experiment)):
        assert y is not None
        assert (y.dtype, y.ndim) == (np.float32, 1)
        assert np.unique(y).size > 2
    assert prepare(experiment).spec.targets is Targets.VALUES


def test_users_are_named_and_each_has_examples(name: str) -> None:
    raw, entry = load(setting(name)), setting(name).data.source_entry
    assert (raw.user is not None) == entry.has_users
    if raw.user is not None:
        assert (raw.user.dtype, raw.user.shape) == (np.int64, (len(raw.x_train),))
        assert set(raw.user.tolist()) == set(range(len(raw.users)))
        assert len(set(raw.users)) == len(raw.users) > 1


def test_the_seed_decides_what_is_drawn_and_nothing_else(name: str) -> None:
    first, draws = load(setting(name)), CASES[name][3]
    assert same(first, load(setting(name)))
    assert same(first, load(setting(name, "seed=1"))) != draws


def test_the_test_set_is_apart_from_what_clients_have(name: str) -> None:
    """Of what is drawn here: a file's own test set may hold whatever it does."""
    raw = load(setting(name))
    if CASES[name][3] and raw.kind is not Kind.TEXT:
        rows = [{row.tobytes() for row in x} for x in (raw.x_train, raw.x_test)]
        assert not rows[0] & rows[1]
    if raw.kind is Kind.TEXT and raw.user is not None:
        assert not {row.tobytes() for row in raw.x_train} >= {row.tobytes() for row in raw.x_test}


def test_prepared_examples_are_all_dealt_and_the_task_takes_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = setting(name, "data.held-out=0.2")
    data, raw = prepare(experiment), load(experiment)
    assert data.sizes().sum() == len(raw.x_train)
    if not experiment.data.source_entry.by_clients:
        dealt = [data.client(client) for client in range(data.clients)]
        assert all(len(own.train) for own in dealt)
        assert sum(len(own.held_out) for own in dealt) > 0
    task = task_of(experiment)
    inputs, targets = task.tensors(data.test)
    assert inputs.shape == (len(raw.x_test), *data.spec.shape)
    assert len(targets) == len(inputs)
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "another"))
    assert prepare(experiment).sha256 == data.sha256
    if not experiment.data.source_entry.by_clients:
        assert prepare(setting(name, "data.held-out=0.2", "seed=1")).sha256 != data.sha256


def test_a_model_trains_on_it_but_where_clients_bring_their_own(name: str) -> None:
    experiment = setting(name, "rounds=1")
    if experiment.data.source_entry.by_clients:
        with pytest.raises(Refused, match=r"data\.source"):
            fedsim.run(experiment, "run")
        return
    (row,) = fedsim.run(experiment, "run").rows
    assert np.isfinite(row["loss"])
    assert row["clients"] == 2
