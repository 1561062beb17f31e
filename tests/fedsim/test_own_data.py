"""A client's own data: read before it joins, and refused if it doesn't fit the run's task."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import fedsim
from fedsim import Experiment, Refused
from fedsim.catalogue import Kind
from fedsim.data import prepare
from fedsim.data.own import OwnData, OwnFile, read_own
from fedsim.data.spec import DataSpec

IMAGES = DataSpec(kind=Kind.IMAGE, shape=(1, 8, 8), classes=10)
FEATURES = DataSpec(kind=Kind.FEATURES, shape=(3,), classes=2)
TEXT = DataSpec(kind=Kind.TEXT, shape=(4,), classes=98, vocabulary=98, per_token=True)

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def read(name: str) -> OwnFile:
    return read_own(Path(name), f"--data {name!r}")


def test_the_same_examples_come_from_every_kind_of_file() -> None:
    np.savez("a.npz", x=X, y=[0, 1])
    np.savez("b.npz", x_train=X, y_train=[[0], [1]], x_test=X, y_test=[0, 1])
    pl.DataFrame({"a": X[:, 0], "label": [0, 1], "b": X[:, 1], "c": X[:, 2]}).write_parquet("a.parquet")
    pl.DataFrame({"pixels": X.tolist(), "label": [0, 1]}).write_parquet("b.parquet")
    for name in ("a.npz", "b.npz", "a.parquet", "b.parquet"):
        examples = read(name).examples(FEATURES)
        assert examples.x.dtype == np.float32
        assert examples.x.tolist() == X.tolist()
        assert examples.y is not None
        assert examples.y.tolist() == [0, 1]


def test_a_text_is_cut_into_windows() -> None:
    Path("a.txt").write_text("abcdefghijk")
    examples = read("a.txt").examples(TEXT)
    a = 3 + ord("a") - ord(" ")
    assert examples.x.tolist() == [[*range(a, a + 5)], [*range(a + 4, a + 9)]]
    assert examples.y is None


def test_a_share_is_held_out_and_one_example_is_always_left() -> None:
    file = OwnFile("--data", np.zeros((10, 3), np.float32), np.arange(10) % 2)
    data = OwnData(file, FEATURES, 0.25, clients=4).client(3)
    assert (len(data.train), len(data.held_out)) == (8, 2)
    one = OwnFile("--data", np.zeros((1, 3), np.float32), np.zeros(1, np.int64))
    assert len(OwnData(one, FEATURES, 0.9, clients=4).client(0).train) == 1


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.csv", b"", "is of no known kind; allowed: .npz, .parquet, .txt"),
        ("a.npz", None, "No such file or directory"),
        ("a.npz", b"nothing", "is not a NumPy .npz file"),
        ("a.parquet", b"nothing", "is not a parquet file"),
        ("a.txt", b"", "is empty"),
        ("a.txt", b"ab\xff", "is not UTF-8 text: invalid start byte at byte 2"),
    ],
)
def test_files_that_cannot_be_read(name: str, content: bytes | None, error: str) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(Refused, match=f"^--data '{name}': {error}"):
        read(name)


def test_arrays_that_cannot_be_used() -> None:
    cases = [
        ({"x": X}, "has no arrays x and y, but x"),
        ({"x": X, "y": [0]}, r"inputs of shape \(2, 3\) and labels of \(1,\)"),
        ({"x": X[:0], "y": X[:0, 0]}, "is empty"),
        ({"x": X, "y": [0, -1]}, "labels: holds the label -1"),
        ({"x": X * np.nan, "y": [0, 1]}, "inputs: holds NaN"),
        ({"x": np.array([{}, {}]), "y": [0, 1]}, "holds pickled objects"),
    ]
    for arrays, error in cases:
        np.savez("a.npz", **arrays)
        with pytest.raises(Refused, match=error):
            read("a.npz")
    pl.DataFrame({"a": [1.0]}).write_parquet("a.parquet")
    with pytest.raises(Refused, match="has the columns a; needed are 'label' and inputs"):
        read("a.parquet")


@pytest.mark.parametrize(
    ("file", "spec", "error"),
    [
        (OwnFile("f", X, np.array([0, 1])), IMAGES, "holds features; the task's inputs are image"),
        (OwnFile("f", X[:, :2], np.array([0, 1])), FEATURES, r"have shape \(2,\), the task's \(3,\)"),
        (OwnFile("f", X, np.array([0, 2])), FEATURES, "has label 2; the task has 0 to 1"),
        (OwnFile("f", text="abcd"), TEXT, "has 4 characters; at least 5 are needed"),
        (OwnFile("f", text="abcd"), FEATURES, "holds text; the task's inputs are features"),
    ],
)
def test_files_of_another_task(file: OwnFile, spec: DataSpec, error: str) -> None:
    with pytest.raises(Refused, match=error):
        file.examples(spec)


def test_a_task_travels_as_text() -> None:
    for spec in (IMAGES, FEATURES, TEXT):
        assert DataSpec.loads(spec.dumps()) == spec


def own(*overrides: str) -> Experiment:
    text = """
        [data]
        source = "own"
        path = "test.npz"
        clients = 3
        classes = 10
        [model]
        name = "linear"
        [server]
        cohort = 3
    """
    return Experiment.from_toml(text, overrides)


def test_a_server_has_a_test_set_and_nothing_to_deal() -> None:
    np.savez("test.npz", x=np.zeros((5, 8, 8), np.float32), y=np.arange(5))
    data = prepare(own())
    assert (data.clients, data.sizes().tolist(), len(data.test), data.spec) == (3, [0, 0, 0], 5, IMAGES)
    with pytest.raises(Refused, match=r"data.classes = 4: data.path = .*test.npz' has label 4"):
        prepare(own("data.classes=4"))


def test_such_an_experiment_is_not_simulated_nor_accounted_for_by_examples() -> None:
    np.savez("test.npz", x=np.zeros((5, 8, 8), np.float32), y=np.arange(5))
    with pytest.raises(Refused, match="its clients are processes of their own"):
        fedsim.run(own())
    with pytest.raises(Refused, match=r"privacy.dp-sgd = 'a table': needs each client's number"):
        own("privacy.dp-sgd.epsilon=1", "privacy.dp-sgd.delta=1e-5", "privacy.dp-sgd.clip=1")
    with pytest.raises(Refused, match=r"privacy.secagg.max-weight"):
        own("privacy.secagg.clip=1")
    own("privacy.secagg.clip=1", "privacy.secagg.max-weight=100")
