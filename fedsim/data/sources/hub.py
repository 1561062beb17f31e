"""Data sets of the Hugging Face hub, or local folders of parquet files, read by `datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.catalogue import Kind, Targets
from fedsim.data.arrays import array_of, as_labels, as_values
from fedsim.data.images import same_mode
from fedsim.data.inputs import as_inputs, told
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
    used = {name: splits[name] for name in (options.train_split, options.test_split) if name in splits}
    inputs = {}
    for name, split in used.items():
        if missing := [key for key in (column, options.label) if key not in split.column_names]:
            raise Refused(
                f"{where}: split {name!r} has no column {missing[0]!r}, which the training split has"
            )
        if len(split) == 0:
            raise Refused(f"{where}: split {name!r} is empty; at least one example is needed")
        inputs[f"split {name!r}: column {column!r}"] = split[:][column]
    text = all(isinstance(value, str) for values in inputs.values() for value in values)
    if text:
        sides, said = [_padded(texts, options.sequence_length) for texts in inputs.values()], ""
    else:
        sides, said = _arrays(inputs, list(used.values()), column, options, where)
    ys = _targets({name: split[:][options.label] for name, split in used.items()}, targets, where)
    user = None if options.client is None else _users(train[:][options.client], options.client, where)
    if len(used) == 2:
        (x, x_test), (y_train, y_test) = sides, ys
    else:
        (x,), (y,) = sides, ys
        if len(x) < 2:
            raise Refused(
                f"{where}: has {len(x)} examples and no split {options.test_split!r}; at least 2 are needed"
            )
        keep, held = held_out_indices(len(x), options.test_share, generator)
        x, x_test, y_train, y_test = x[keep], x[held], y[keep], y[held]
        user = None if user is None else user[keep]
    names, index = (None, None) if user is None else np.unique(user, return_inverse=True)
    return Raw(
        kind=Kind.TEXT if text else Kind.FEATURES if x.ndim == 2 else Kind.IMAGE,
        x_train=x,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        vocabulary=VOCABULARY if text else 0,
        user=None if index is None else index.astype(np.int64),
        users=() if names is None else tuple(map(str, names)),
        inputs=said,
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
            # each by itself, or datasets casts them all to the types of the first
            return {
                split: datasets.load_dataset("parquet", data_files={split: of})[split]
                for split, of in files.items()
            }
        if Path(path).is_file():
            raise Refused(
                f"{where}: is a file; needed is a folder with train.parquet (and test.parquet), or a data set of the hub"
            )
        return dict(datasets.load_dataset(path))
    except Refused:
        raise
    except Exception as error:  # the hub's client raises many types
        said = str(error.__cause__ or error).strip()
        reason = said.splitlines()[0] if said else type(error).__name__
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


def _padded(texts: list[str], length: int) -> NDArray[np.uint8]:
    padded = np.zeros((len(texts), length), dtype=np.uint8)
    for row, text in zip(padded, texts, strict=True):
        t = tokens(text[:length])
        row[: len(t)] = t
    return padded


def _arrays(
    inputs: dict[str, list[Any]],
    splits: list[Dataset],
    column: str,
    options: HuggingFaceOptions,
    where: str,
) -> tuple[list[NDArray[Any]], str]:
    """Return the inputs of all splits, by their names in errors, in fedsim's form, and how they were scaled."""
    from PIL.Image import Image

    if all(isinstance(value, Image) for values in inputs.values() for value in values):
        pictures = same_mode([value for values in inputs.values() for value in values], where)
        inputs = {name: [np.asarray(next(pictures)) for _ in values] for name, values in inputs.items()}
        options = options.model_copy(update={"layout": "channels-last"})
    given = {
        name: array_of(values, _leaf(split.data.schema.field(column).type), f"{where}: {name}")
        for (name, values), split in zip(inputs.items(), splits, strict=True)
    }
    if any(x.ndim == 1 and x.dtype.kind in "biuf" for x in given.values()):
        raise Refused(f"{where}: column {column!r} holds single numbers; images, texts or lists are needed")
    sides, divisor = as_inputs(given, where, options)
    return sides, told(list(given.values()), divisor, options.scale)


def _leaf(kind: Any) -> str:
    """Return the name of the type of the numbers in lists of this Arrow type."""
    while hasattr(kind := getattr(kind, "storage_type", kind), "value_type"):
        kind = kind.value_type
    return str(kind)


def _users(names: list[Any], column: str, where: str) -> NDArray[np.str_]:
    missing = sum(name is None or name != name for name in names)  # NaN is not itself
    if missing:
        raise Refused(
            f"{where}: column {column!r} names no user for {missing} of {len(names)} examples; each needs one"
        )
    return np.asarray([str(name) for name in names])


def _targets(columns: dict[str, list[Any]], targets: Targets, where: str) -> list[NDArray[Any]]:
    """Return the targets of all splits, with the same numbering of labels."""
    if targets is not Targets.VALUES and all(isinstance(y, str) for ys in columns.values() for y in ys):
        number = {name: i for i, name in enumerate(sorted({y for ys in columns.values() for y in ys}))}
        columns = {name: [number[y] for y in ys] for name, ys in columns.items()}
    convert, what = (as_values, "targets") if targets is Targets.VALUES else (as_labels, "labels")
    arrays = []
    for name, ys in columns.items():
        said = f"{where}: the {what} of split {name!r}"
        arrays.append(convert(array_of(ys, "", said), said))
    if len({y.shape[1:] for y in arrays}) > 1:
        raise Refused(f"{where}: the {what} of the splits have several lengths; one is needed")
    return arrays
