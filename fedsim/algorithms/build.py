"""From an experiment to its algorithm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.algorithms.protocol import Algorithm, Arrays, Field, Fields
from fedsim.errors import Refused
from fedsim.making import made
from fedsim.messages import NAMES
from fedsim.options import keywords

if TYPE_CHECKING:
    from fedsim.experiment import Experiment


def algorithm_of(experiment: Experiment) -> Algorithm:
    """Return an experiment's algorithm.

    A user's own `"module:callable"` is called with the other keys of `[algorithm]` as keyword arguments.

    Raises:
        Refused: The callable is missing, doesn't take the options, or returns no algorithm.
    """
    entry = experiment.algorithm_entry
    where = f"algorithm.name = {entry.name!r}"
    algorithm: Algorithm = made(
        lambda: entry.load()(**keywords(experiment.algorithm_options)),
        Algorithm,
        where,
        "a fedsim.algorithms.Algorithm",
    )
    if not isinstance(algorithm.fields, Mapping):
        kind = type(algorithm.fields).__name__
        raise Refused(f"{where}: fields is {kind}; a dict is needed, of Field by name")
    for name, field in algorithm.fields.items():
        if not _is_valid(name, field):
            raise Refused(
                f"{where}: field {name!r} = {field}: must be a fedsim.algorithms.Field of a scale above 0, by a name "
                f"without '/' that is none of {', '.join(sorted(NAMES))}"
            )
    return algorithm


def _is_valid(name: object, field: object) -> bool:
    return (
        isinstance(name, str)
        and name not in {"", *NAMES}
        and "/" not in name
        and isinstance(field, Field)
        and isinstance(field.scale, int | float)
        and 0 < field.scale < math.inf
    )


def first_fields(algorithm: Algorithm, model: Arrays, trained: Iterable[str]) -> Fields:
    """Return an algorithm's fields before the first round, from a model's arrays and the names of the trained ones.

    Raises:
        Refused: They are not the fields that the algorithm declares, or have values other than finite floating-point numbers.
    """
    first: Any = algorithm.init({name: model[name].copy() for name in trained})
    where = f"algorithm {type(algorithm).__name__}: init()"
    if not isinstance(first, Mapping) or not all(isinstance(arrays, Mapping) for arrays in first.values()):
        raise Refused(f"{where}: must return a dict of fields, each a dict of arrays")
    if first.keys() != algorithm.fields.keys():
        odd = ", ".join(sorted(map(str, first.keys() ^ algorithm.fields.keys())))
        raise Refused(f"{where}: must return a value of each of its fields, and of no other: {odd}")
    return {
        field: {name: _numbers(array, f"{where}: field {field!r}: {name}") for name, array in arrays.items()}
        for field, arrays in first.items()
    }


def _numbers(array: Any, where: str) -> NDArray[Any]:
    """Return a copy of an array, or refuse it: its values must be finite floating-point numbers."""
    if not isinstance(array, np.ndarray | np.floating) or array.dtype.kind != "f":
        kind = getattr(array, "dtype", type(array).__name__)
        raise Refused(f"{where} is {kind}; a NumPy array of floating-point numbers is needed")
    if not np.isfinite(array).all():
        raise Refused(f"{where} holds NaN or infinity; finite numbers are needed")
    return np.array(array, order="C")
