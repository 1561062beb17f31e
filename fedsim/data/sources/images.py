"""Images and other arrays: the bundled digits, and NumPy files."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.catalogue import Kind, Targets
from fedsim.data.arrays import as_inputs, as_targets
from fedsim.data.raw import Raw
from fedsim.data.split import held_out_indices
from fedsim.errors import Refused
from fedsim.options import DigitsOptions, PathOptions

NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def digits(options: DigitsOptions, generator: np.random.Generator, targets: Targets) -> Raw:
    """Return scikit-learn's copy of the UCI optical digits: 1,797 images, 8x8, 17 grey levels, 10 labels.

    Inputs are float32 `(1, 8, 8)` from 0 to 1. (Alpaydin and Kaynak 1998, test part.)
    """
    from sklearn.datasets import load_digits

    bundle = load_digits()
    x = (bundle.images / 16.0).astype(np.float32)[:, None]
    y = as_targets(bundle.target, targets, "data.source = 'digits'")
    train, test = held_out_indices(len(x), options.test_share, generator)
    return Raw(kind=Kind.IMAGE, x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test])


def npz(options: PathOptions, generator: np.random.Generator, targets: Targets) -> Raw:
    """Read a NumPy file with `x_train`, `y_train`, `x_test`, `y_test`.

    Inputs of shape `(examples, height, width)`, `(examples, height, width, channels)` or `(examples, channels,
    height, width)` are images, `(examples, features)` are features. Labels are integers from 0, of shape
    `(examples,)`; real-valued targets are finite numbers, `(examples,)` or `(examples, values)`. Nothing is unpickled.

    Raises:
        Refused: The file is missing or not such a file.
    """
    where = f"data.path = {options.path!r}"
    arrays = _read_npz(Path(options.path), where)
    sides = {}
    for side in ("train", "test"):
        x, y = arrays[f"x_{side}"], arrays[f"y_{side}"]
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        alike = y.ndim == 1 or (y.ndim == 2 and targets is Targets.VALUES)
        if not alike or len(x) != len(y):
            raise Refused(
                f"{where}: x_{side} has shape {x.shape} and y_{side} has {y.shape}; "
                "there must be one label for each input"
            )
        if len(x) == 0:
            raise Refused(f"{where}: x_{side} is empty; at least one example is needed")
        sides[side] = (as_inputs(x, f"{where}: x_{side}"), as_targets(y, targets, f"{where}: y_{side}"))
    (x_train, y_train), (x_test, y_test) = sides["train"], sides["test"]
    if x_train.shape[1:] != x_test.shape[1:] or x_train.dtype != x_test.dtype:
        raise Refused(
            f"{where}: x_train holds {x_train.dtype} {x_train.shape[1:]} and x_test {x_test.dtype} "
            f"{x_test.shape[1:]}; they must be alike"
        )
    if y_train.shape[1:] != y_test.shape[1:]:
        raise Refused(
            f"{where}: y_train has shape {y_train.shape} and y_test {y_test.shape}; they must be alike"
        )
    kind = Kind.FEATURES if x_train.ndim == 2 else Kind.IMAGE
    return Raw(kind=kind, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


def _read_npz(path: Path, where: str) -> dict[str, NDArray[Any]]:
    needed = ", ".join(NPZ_ARRAYS)
    try:
        if not zipfile.is_zipfile(path):
            path.open("rb").close()  # raises if it can't be read at all
            raise Refused(f"{where}: is not a NumPy .npz file; needed are the arrays {needed}")
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in NPZ_ARRAYS if name not in file]
            if missing:
                raise Refused(f"{where}: has no {', '.join(missing)}; needed are {needed}")
            return {name: file[name] for name in NPZ_ARRAYS}
    except OSError as error:
        raise Refused(f"{where}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise Refused(f"{where}: is damaged: {error}") from None
    except ValueError as error:
        if isinstance(error, Refused):
            raise
        raise Refused(
            f"{where}: holds pickled objects, which are never loaded; needed are numbers in {needed}"
        ) from None
