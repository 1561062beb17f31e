"""From an experiment to its algorithm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fedsim.algorithms.protocol import Algorithm, Arrays, Field, Fields
from fedsim.errors import Refused
from fedsim.messages import NAMES

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
    make: Any = entry.load()
    arguments = {key.replace("-", "_"): value for key, value in experiment.algorithm_options.items()}
    try:
        made = make(**arguments)
    except (TypeError, ValueError) as error:
        raise Refused(f"{where}: {error}") from None
    if not isinstance(made, Algorithm):
        raise Refused(f"{where}: returned {type(made).__name__}; a fedsim.algorithms.Algorithm is needed")
    for name, field in made.fields.items():
        if name in NAMES or "/" in name or not isinstance(field, Field) or not field.scale > 0:
            raise Refused(
                f"{where}: field {name!r} = {field}: must be a fedsim.algorithms.Field of a scale above 0, by a name "
                f"without '/' that is none of {', '.join(sorted(NAMES))}"
            )
    return made


def first_fields(algorithm: Algorithm, model: Arrays, trained: Iterable[str]) -> Fields:
    """Return an algorithm's fields before the first round, for a model's arrays and the names of those it trains.

    Raises:
        Refused: They are not the fields that the algorithm says, or hold other than floating-point numbers.
    """
    fields = algorithm.init({name: model[name] for name in trained})
    where = f"algorithm {type(algorithm).__name__}"
    if fields.keys() != algorithm.fields.keys():
        odd = ", ".join(sorted(fields.keys() ^ algorithm.fields.keys()))
        raise Refused(f"{where}: init() must return a value of each of its fields, and of no other: {odd}")
    for field, arrays in fields.items():
        for name, array in arrays.items():
            if array.dtype.kind != "f":
                raise Refused(
                    f"{where}: field {field!r}: {name} is {array.dtype}; floating-point numbers are needed"
                )
    return fields
