"""Reads arrays from files and lists, checks targets, and converts them to fedsim's dtypes and shapes."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.arrays import HEADERS
from fedsim.catalogue import Targets
from fedsim.errors import Refused

ENCRYPTED = 0x1  # of a member's flags
MOST_LABELS = 1_000_000


@contextmanager
def opened_npz(path: Path, where: str, arrays: str, numbers: str) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Open a NumPy `.npz` file; nothing is unpickled.

    In errors, `where` names it, `arrays` are those needed, and `numbers` says what is needed for pickled objects.

    Raises:
        Refused: It is missing, damaged, encrypted or no such file, or an array holds pickled objects, or more bytes than
            the file or this machine's memory.
    """
    try:
        path.open("rb").close()  # raises if it can't be read at all
        if not zipfile.is_zipfile(path):
            raise Refused(f"{where}: is not a NumPy .npz file; needed are the arrays {arrays}")
        _check_members(path, where)
        with np.load(path, allow_pickle=False) as file:
            yield file
    except OSError as error:
        raise Refused(f"{where}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise Refused(f"{where}: is damaged: {error}") from None
    except Refused:
        raise
    except ValueError:
        raise Refused(f"{where}: holds pickled objects, which are never loaded; {numbers}") from None


def _check_members(path: Path, where: str) -> None:
    """Refuse, before an array is allocated, a file that is encrypted, larger than memory, or promises more than it has."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with zipfile.ZipFile(path) as packed:
        members = packed.infolist()
        if any(member.flag_bits & ENCRYPTED for member in members):
            raise Refused(f"{where}: is encrypted, which no .npz file is")
        if (size := sum(member.file_size for member in members)) > memory:
            raise Refused(f"{where}: holds {size:,} bytes, more than this machine's memory of {memory:,}")
        for member in members:
            with packed.open(member) as file:
                try:
                    header = HEADERS[np.lib.format.read_magic(file)](file)
                except (ValueError, KeyError):
                    continue  # no array; which are needed is said later
                shape, _, dtype = header
                needed = file.tell() + math.prod(shape) * dtype.itemsize
            if not dtype.hasobject and needed != member.file_size:
                raise Refused(
                    f"{where}: is damaged: {member.filename[:100]!r} has {member.file_size} bytes; its header promises "
                    f"{needed}"
                )


def one_for_each(x: NDArray[Any], y: NDArray[Any], targets: Targets) -> tuple[NDArray[Any], bool]:
    """Return targets without an axis of length 1, and whether there is one (with `VALUES`, a row) for each input."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    axes = (1, 2) if targets is Targets.VALUES else (1,)
    return y, x.ndim > 0 and y.ndim in axes and len(x) == len(y)


def array_of(values: list[Any], leaf: str, where: str) -> NDArray[Any]:
    """Return numbers, or nested lists of them of one shape, as an array; `leaf` is the dtype that they were stored in.

    Raises:
        Refused: One is missing or no number, or the lists have several shapes.
    """
    if any(value is None for value in values):
        raise _missing(where)
    try:
        array = np.asarray(values)
    except ValueError:
        raise Refused(f"{where}: holds lists of several shapes; one is needed") from None
    if array.dtype == object:
        others = {type(value).__name__ for value in array.flat}
        if "NoneType" in others:
            raise _missing(where)
        raise Refused(f"{where}: holds {', '.join(sorted(others))}; numbers are needed")
    return array.astype(np.uint8) if leaf.lower() == "uint8" and array.dtype.kind == "i" else array


def _missing(where: str) -> Refused:
    return Refused(f"{where}: holds missing values (null or NaN); finite numbers are needed")


def as_targets(y: NDArray[Any], targets: Targets, where: str) -> NDArray[Any]:
    """Return targets in fedsim's form: `as_values` if the task needs real values, else `as_labels`."""
    return as_values(y, where) if targets is Targets.VALUES else as_labels(y, where)


def as_labels(y: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Return labels, `(examples,)` int64 from 0; raises `Refused` if they are not whole numbers from 0, one an example."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise Refused(
            f"{where}: has shape {y.shape}; one label an example is needed (rows of targets are for [task] name = "
            "'regression')"
        )
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
    if y.max(initial=0) >= MOST_LABELS:
        raise Refused(f"{where}: holds the label {y.max()}; labels below {MOST_LABELS:,} are needed")
    labels = y.astype(np.int64)
    if labels.min(initial=0) < 0:
        raise Refused(f"{where}: holds the label {labels.min()}; whole numbers from 0 are needed")
    return labels


def as_values(y: NDArray[Any], where: str) -> NDArray[np.float32]:
    """Return real-valued targets as float32: `(examples,)`, or `(examples, values)` for several an example.

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


def values_in(y: NDArray[Any] | None) -> int:
    """Return the number of real-valued targets of an example, given fedsim's targets; 0 for labels."""
    if y is None or y.dtype.kind != "f":
        return 0
    return 1 if y.ndim == 1 else int(y.shape[1])
