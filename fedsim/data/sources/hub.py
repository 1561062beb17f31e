"""Data sets of the Hugging Face hub, or local folders of parquet files, read by `datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.catalogue import Kind, Targets
from fedsim.data.arrays import as_inputs, as_labels, as_values
from fedsim.data.raw import Raw, held_out_indices
from fedsim.data.tokens import VOCABULARY, tokens
from fedsim.errors import Refused
from fedsim.options import HuggingFaceOptions

if TYPE_CHECKING:
    from datasets import Dataset


def huggingface(options: HuggingFaceOptions, generator: np.random.Generator, targets: Targets) -> Raw:
    """Read a data set by `datasets.load_dataset`.

    The input column may hold images, texts, or lists of numbers of one shape. Labels may be whole numbers or strings
    (numbered in sorted order), real-valued targets numbers or lists of numbers of one length. A text is classified as
    a whole: it is cut or padded (token 0) to `sequence-length` characters.

    Raises:
        Refused: The data set, a split or a column is not there, or a column can't be used.
    """
    where = f"data.path = {options.path!r}"
    splits = _load(options.path, where)
    if options.train_split not in splits:
        raise Refused(f"{where}: has no split {options.train_split!r}; allowed: {', '.join(splits)}")
    train = splits[options.train_split]
    column = _input_column(train, options, where)
    x, y = _inputs(train, column, options, where), train[:][options.label]
    user = None if options.client is None else np.asarray([str(name) for name in train[:][options.client]])
    if options.test_split in splits:
        test = splits[options.test_split]
        x_test, y_test = _inputs(test, column, options, where), test[:][options.label]
        y_train, y_test = _targets(y, y_test, targets, where)
    else:
        if len(x) < 2:
            raise Refused(
                f"{where}: has {len(x)} examples and no split {options.test_split!r}; at least 2 are needed"
            )
        keep, held = held_out_indices(len(x), options.test_share, generator)
        every, _ = _targets(y, y, targets, where)
        x, x_test, y_train, y_test = x[keep], x[held], every[keep], every[held]
        user = None if user is None else user[keep]
    names, index = (None, None) if user is None else np.unique(user, return_inverse=True)
    text = isinstance(train[0][column], str)
    return Raw(
        kind=Kind.TEXT if text else Kind.FEATURES if x.ndim == 2 else Kind.IMAGE,
        x_train=x,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        vocabulary=VOCABULARY if text else 0,
        user=None if index is None else index.astype(np.int64),
        users=() if names is None else tuple(map(str, names)),
    )


def _load(path: str, where: str) -> dict[str, Dataset]:
    import datasets

    datasets.disable_progress_bars()
    try:
        if Path(path).is_dir():
            files: dict[str, list[str]] = {}
            for file in sorted(Path(path).glob("*.parquet")):
                files.setdefault(file.stem.split("-")[0], []).append(str(file))
            if not files:
                raise Refused(
                    f"{where}: holds no .parquet file (train.parquet, test.parquet, train-00000.parquet, ...)"
                )
            return dict(datasets.load_dataset("parquet", data_files=files))
        return dict(datasets.load_dataset(path))
    except Refused:
        raise
    except Exception as error:  # the hub's client raises many types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Refused(f"{where}: neither a folder nor a data set that can be loaded: {reason}") from None


def _input_column(train: Dataset, options: HuggingFaceOptions, where: str) -> str:
    columns = train.column_names
    for name in (options.label, options.client, options.input):
        if name is not None and name not in columns:
            raise Refused(f"{where}: has no column {name!r}; allowed: {', '.join(columns)}")
    if options.input is not None:
        return options.input
    others = [name for name in columns if name not in (options.label, options.client)]
    if len(others) != 1:
        raise Refused(f"{where}: data.input must say which column is the input; allowed: {', '.join(others)}")
    return str(others[0])


def _inputs(split: Dataset, column: str, options: HuggingFaceOptions, where: str) -> NDArray[Any]:
    if len(split) == 0:
        raise Refused(f"{where}: a split is empty; at least one example is needed")
    values = split[:][column]
    if all(isinstance(value, str) for value in values):
        padded = np.zeros((len(values), options.sequence_length), dtype=np.uint8)
        for row, text in zip(padded, values, strict=True):
            t = tokens(text[: options.sequence_length])
            row[: len(t)] = t
        return padded
    try:
        x = np.stack([np.asarray(value) for value in values])
    except ValueError:
        raise Refused(
            f"{where}: column {column!r} holds inputs of different shapes; one shape is needed"
        ) from None
    if x.ndim == 1:
        raise Refused(f"{where}: column {column!r} holds single numbers; images, texts or lists are needed")
    return as_inputs(x, f"{where}: column {column!r}")


def _targets(
    train: list[Any], test: list[Any], targets: Targets, where: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the targets of both splits, with the same numbering of labels."""
    if targets is Targets.VALUES:
        return _values(train, where), _values(test, where)
    if all(isinstance(label, str) for label in [*train, *test]):
        number = {name: i for i, name in enumerate(sorted({*train, *test}))}
        train, test = [number[name] for name in train], [number[name] for name in test]
    where = f"{where}: the labels"
    return as_labels(np.asarray(train), where), as_labels(np.asarray(test, dtype=np.int64), where)


def _values(column: list[Any], where: str) -> NDArray[np.float32]:
    try:
        return as_values(np.asarray(column), f"{where}: the targets")
    except Refused:
        raise
    except ValueError:
        raise Refused(f"{where}: the targets are lists of several lengths; one is needed") from None
