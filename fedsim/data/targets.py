"""Targets as fedsim keeps them: labels as int64, real values as float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.catalogue import Targets
from fedsim.errors import Refused


def as_targets(y: NDArray[Any], targets: Targets, where: str) -> NDArray[Any]:
    """Return targets as fedsim keeps them: `as_values` where a task wants real values, else `as_labels`."""
    return as_values(y, where) if targets is Targets.VALUES else as_labels(y, where)


def as_labels(y: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Return labels as int64 from 0.

    Raises:
        Refused: They are not whole numbers from 0.
    """
    if y.dtype.kind == "f":
        if not np.isfinite(y).all():
            raise Refused(f"{where}: holds NaN or infinity; whole numbers from 0 are needed")
        if not (y == np.floor(y)).all():
            raise Refused(
                f"{where}: holds fractions; whole numbers from 0 are needed (real-valued targets are for [task] name = "
                "'regression')"
            )
    elif y.dtype.kind not in "biu":
        raise Refused(f"{where}: has dtype {y.dtype}; whole numbers from 0 are needed")
    labels = y.astype(np.int64)
    if labels.min(initial=0) < 0:
        raise Refused(f"{where}: holds the label {labels.min()}; whole numbers from 0 are needed")
    return labels


def as_values(y: NDArray[Any], where: str) -> NDArray[np.float32]:
    """Return real-valued targets as float32: `(examples,)`, or `(examples, values)` where an example has several.

    Raises:
        Refused: They are not finite numbers of float32, or have another shape.
    """
    if y.dtype.kind not in "biuf":
        raise Refused(f"{where}: has dtype {y.dtype}; numbers are needed")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2) or y.size == 0:
        raise Refused(
            f"{where}: has shape {y.shape}; a number for each example, or a row of numbers, is needed"
        )
    with np.errstate(over="ignore"):
        values = y.astype(np.float32)
    if not np.isfinite(values).all():
        raise Refused(f"{where}: holds NaN, infinity or what float32 can't hold; finite numbers are needed")
    return values
