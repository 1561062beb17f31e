"""A source's examples, before partitioning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.catalogue import Kind


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A training set and a central test set.

    Attributes:
        kind: What one input is.
        x_train: Inputs, `(examples, *shape)`: uint8 (read as value / 255) or float32 for images, float32 for
            features, uint8 tokens for text. Text for next-character prediction has one token more than the
            model reads: position `i` of the input is labelled with position `i + 1`.
        y_train: Labels, `(examples,)` int64 from 0; or real values, float32 `(examples,)` or `(examples, values)`; None
            for next-character prediction.
        x_test: As `x_train`.
        y_test: As `y_train`.
        vocabulary: Number of different tokens of a text; 0 for other kinds.
        classes: Number of labels; 0: the highest label + 1.
        user: The user of each training example, `(examples,)` int64 into `users`; None without users.
        users: Names of the users.
    """

    kind: Kind
    x_train: NDArray[Any]
    y_train: NDArray[Any] | None
    x_test: NDArray[Any]
    y_test: NDArray[Any] | None
    vocabulary: int = 0
    classes: int = 0
    user: NDArray[np.int64] | None = None
    users: tuple[str, ...] = ()
