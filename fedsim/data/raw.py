"""A source's examples, before partitioning: their type, loading and checking, and a seeded split."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from fedsim.catalogue import Kind, SourceEntry, Targets
from fedsim.errors import Refused
from fedsim.options import Options


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A training set and a central test set.

    Attributes:
        kind: What one input is.
        x_train: Inputs, `(examples, *shape)`: uint8 (read as value / 255) or float32 for images and features, uint8
            tokens for text. Text for next-character prediction has one token more than the
            model reads: position `i` of the input is labelled with position `i + 1`.
        y_train: Labels, `(examples,)` int64 from 0; or real values, float32 `(examples,)` or `(examples, values)`; None
            for next-character prediction.
        x_test: As `x_train`.
        y_test: As `y_train`.
        vocabulary: Number of different tokens of a text; 0 for other kinds.
        classes: Number of labels; 0: the highest label + 1.
        user: The user of each training example, `(examples,)` int64 into `users`; None without users.
        users: Names of the users.
        inputs: Dtype and range of the inputs before they were scaled, and how they were, in words; "": as `x_train` says.
        divisor: What whole numbers among the inputs were divided by, for clients with files of their own; None without.
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
    inputs: str = ""
    divisor: float | None = None

    @classmethod
    def split(
        cls, kind: Kind, x: NDArray[Any], y: NDArray[Any], test_share: float, generator: np.random.Generator
    ) -> Self:
        """Split examples at random by `held_out_indices`."""
        train, test = held_out_indices(len(x), test_share, generator)
        return cls(kind=kind, x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test])


def load_raw(entry: SourceEntry, options: Options, generator: np.random.Generator, targets: Targets) -> Raw:
    """Return a source's examples.

    Raises:
        Refused: They can't be read; or the user's own source is missing, fails, or returns no examples.
    """
    if ":" not in entry.name:
        return cast(Raw, entry.load()(options, generator, targets))
    where = f"data.source = {entry.name!r}"
    try:
        found: Any = entry.load()(options, generator, targets)
    except Refused as error:
        raise Refused(f"{where}: {error}") from None
    except (AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise Refused(f"{where}: {type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(found, Raw):
        raise Refused(f"{where}: returned {type(found).__name__}; a fedsim.data.raw.Raw is needed")
    _check_arrays(found, where)
    return found


def state_of(source: str) -> list[Any]:
    """Return the state of the module of a user's own source, so that a changed one is reloaded.

    Files that the module reads are not tracked: name them in an option.
    """
    try:
        spec = importlib.util.find_spec(source.partition(":")[0]) if ":" in source else None
    except (ImportError, ValueError):
        return []  # loading it fails too, and is refused then
    file = None if spec is None or spec.origin is None else Path(spec.origin)
    if file is None or not file.is_file():
        return []
    return [str(file), file.stat().st_size, file.stat().st_mtime_ns]


def _check_arrays(raw: Raw, where: str) -> None:
    """Refuse arrays that don't fit together, or hold NaN or infinity."""
    for name, x, y in (("train", raw.x_train, raw.y_train), ("test", raw.x_test, raw.y_test)):
        if not isinstance(x, np.ndarray) or x.dtype not in (np.uint8, np.float32) or len(x) == 0:
            kind = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
            raise Refused(f"{where}: x_{name} is {kind}; examples as uint8 or float32 are needed")
        if x.dtype == np.float32 and not np.isfinite(x).all():
            raise Refused(f"{where}: x_{name} holds NaN or infinity; finite numbers are needed")
        if (y is None) != (raw.y_train is None) or (y is not None and len(y) != len(x)):
            raise Refused(f"{where}: y_{name} must have as many targets as x_{name} has examples, {len(x)}")
        if y is not None and y.dtype not in (np.int64, np.float32):
            raise Refused(f"{where}: y_{name} is {y.dtype}; labels as int64 or values as float32 are needed")
        if y is not None and y.dtype == np.int64 and y.min() < 0:
            raise Refused(f"{where}: y_{name} holds {y.min()}; labels from 0 are needed")
    if raw.x_train.shape[1:] != raw.x_test.shape[1:]:
        raise Refused(
            f"{where}: examples for training have shape {raw.x_train.shape[1:]}, those of the test {raw.x_test.shape[1:]}"
        )
    if raw.user is not None and len(raw.user) != len(raw.x_train):
        raise Refused(f"{where}: user has {len(raw.user)} entries for {len(raw.x_train)} training examples")


def held_out_indices(
    count: int, share: float, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split `range(count)` at random into kept and held-out indices, each in ascending order.

    At least one index goes to each side, so `count` must be at least 2.
    """
    size = min(max(round(share * count), 1), count - 1)
    order = generator.permutation(count)
    return np.sort(order[size:]), np.sort(order[:size])
