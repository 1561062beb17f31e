"""NumPy files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedsim.catalogue import Kind, Targets
from fedsim.data.arrays import as_targets, one_for_each, opened_npz
from fedsim.data.inputs import as_inputs, told
from fedsim.data.raw import Raw
from fedsim.errors import Refused
from fedsim.options import ArrayOptions

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def npz(options: ArrayOptions, generator: np.random.Generator, targets: Targets) -> Raw:
    """Read a NumPy file with `x_train`, `y_train`, `x_test`, `y_test`.

    Inputs of shape `(examples, height, width)`, `(examples, height, width, channels)` or `(examples, channels,
    height, width)` are images, `(examples, features)` are features; `fedsim.data.inputs` says what is scaled. Labels are integers from 0, of shape
    `(examples,)`; real-valued targets are finite numbers, `(examples,)` or `(examples, values)`. Nothing is unpickled.

    Raises:
        Refused: The file is missing or not such a file.
    """
    where = f"data.path = {options.path!r}"
    needed = ", ".join(ARRAYS)
    with opened_npz(Path(options.path), where, needed, f"needed are numbers in {needed}") as file:
        if missing := [name for name in ARRAYS if name not in file]:
            raise Refused(f"{where}: has no {', '.join(missing)}; needed are {needed}")
        arrays = {name: file[name] for name in ARRAYS}
    for side in ("train", "test"):
        x = arrays[f"x_{side}"]
        y, matched = one_for_each(x, arrays[f"y_{side}"], targets)
        if not matched:
            raise Refused(
                f"{where}: x_{side} has shape {x.shape} and y_{side} has {y.shape}; "
                "there must be one label for each input"
            )
        if len(x) == 0:
            raise Refused(f"{where}: x_{side} is empty; at least one example is needed")
        arrays[f"y_{side}"] = as_targets(y, targets, f"{where}: y_{side}")
    given = {name: arrays[name] for name in ("x_train", "x_test")}
    (x_train, x_test), divisor = as_inputs(given, where, options)
    y_train, y_test = arrays["y_train"], arrays["y_test"]
    if y_train.shape[1:] != y_test.shape[1:]:
        raise Refused(
            f"{where}: y_train has shape {y_train.shape} and y_test {y_test.shape}; they must be alike"
        )
    kind = Kind.FEATURES if x_train.ndim == 2 else Kind.IMAGE
    return Raw(
        kind=kind,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        inputs=told(list(given.values()), divisor, options.scale),
    )
