"""Data that clients bring themselves: only the test set is known in advance."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedsim.catalogue import Kind, Targets
from fedsim.data.inputs import as_inputs, told
from fedsim.data.own import read_own
from fedsim.data.raw import Raw
from fedsim.data.tokens import VOCABULARY, windows
from fedsim.errors import Refused
from fedsim.options import OwnOptions


def own(options: OwnOptions, generator: np.random.Generator, targets: Targets) -> Raw:
    """Return the server's test set, and no training examples.

    Raises:
        Refused: The file can't be read, or a label is not among the classes.
    """
    where = f"data.path = {options.path!r}"
    file = read_own(Path(options.path), where, targets)
    if file.x is None or file.y is None:
        x = windows(file.text, options.sequence_length)
        if not len(x):
            raise Refused(f"{where}: is shorter than data.sequence-length = {options.sequence_length}")
        return Raw(kind=Kind.TEXT, x_train=x[:0], y_train=None, x_test=x, y_test=None, vocabulary=VOCABULARY)
    if targets is Targets.VALUES:
        if options.classes is not None:
            raise Refused(
                f"data.classes = {options.classes}: real-valued targets have no classes; it must be unset"
            )
    elif options.classes is None:
        raise Refused(
            f"data.classes: is not set; {where} has the labels 0 to {file.y.max()}, and clients may have more"
        )
    elif file.y.max() >= options.classes:
        raise Refused(f"data.classes = {options.classes}: {where} has label {file.y.max()}")
    (x,), divisor = as_inputs({"inputs": file.x}, where, options)
    return Raw(
        kind=file.kind,
        x_train=x[:0],
        y_train=file.y[:0],
        x_test=x,
        y_test=file.y,
        classes=options.classes or 0,
        inputs=told([file.x], divisor, options.scale),
        divisor=divisor,
    )
