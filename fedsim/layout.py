"""The arrays of an update, and their order in one vector: the model's, then each field's."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from flwr.app import ArrayRecord, RecordDict
from numpy.typing import NDArray

from fedsim.arrays import Values, arrays_in, record_of, values_of
from fedsim.messages import ARRAYS, VECTOR
from fedsim.privacy.vectors import dimension_of, split_like
from fedsim.records import find_record, record_in

if TYPE_CHECKING:
    from fedsim.algorithms.protocol import Algorithm, Arrays, Fields

Shape = tuple[int, ...]
Expected = Mapping[str, tuple[Shape, np.dtype[Any]]]  # shape and dtype of each array, by name


@dataclass(frozen=True)
class Layout:
    """The arrays of a model and of an algorithm's fields.

    In a vector, a field's numbers are multiplied by its scale, and the model's integers are left out: they are counters
    (batch norm's), which are neither clipped nor noised nor summed, and keep the received value.

    Attributes:
        model: Shape and dtype of the model's arrays, in order.
        fields: Shape and dtype of each field's arrays, by field.
        scales: Scale of each field.
    """

    model: Expected
    fields: Mapping[str, Expected] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ArrayRecord, algorithm: Algorithm | None = None, fields: Fields | None = None) -> Self:
        """Return the layout of a model and of an algorithm's fields."""
        return cls(
            {name: (tuple(array.shape), np.dtype(array.dtype)) for name, array in model.items()},
            {
                name: {key: (array.shape, array.dtype) for key, array in arrays.items()}
                for name, arrays in (fields or {}).items()
            },
            {} if algorithm is None else {name: spec.scale for name, spec in algorithm.fields.items()},
        )

    @property
    def records(self) -> Mapping[str, Expected]:
        """Arrays of a reply in clear, by record."""
        return {ARRAYS: self.model, **self.fields}

    @property
    def vector(self) -> Mapping[str, Expected]:
        """Arrays of a reply as one vector, in the widest dtype."""
        return {VECTOR: {VECTOR: ((self.dimension,), self.dtype)}}

    @property
    def counters(self) -> list[str]:
        """Names of the model's arrays of integers."""
        return [name for name, (_, dtype) in self.model.items() if dtype.kind != "f"]

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shapes in the order of the vector: the model's by name, a field's by `field/name`."""
        shapes = {name: shape for name, (shape, dtype) in self.model.items() if dtype.kind == "f"}
        for field_, arrays in self.fields.items():
            shapes |= {f"{field_}/{name}": shape for name, (shape, _) in arrays.items()}
        return shapes

    @property
    def dimension(self) -> int:
        """Numbers in an update."""
        return dimension_of(self.shapes.values())

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of an update as one vector: the widest."""
        dtypes = (dtype for arrays in self.records.values() for _, dtype in arrays.values())
        return np.result_type(*(dtype for dtype in dtypes if dtype.kind == "f"))

    def to_vector(self, update: Values, changes: Fields) -> Values:
        """Return an update of the model, `(numbers,)`, and changes of the fields as one vector."""
        if not self.fields:
            return update
        scaled = [
            np.multiply(changes[field_][name], self.scales[field_]).reshape(-1)
            for field_, arrays in self.fields.items()
            for name in arrays
        ]
        return np.concatenate([update, *scaled]).astype(self.dtype, copy=False)

    def split(self, vector: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return a vector as views, by the names of `shapes`; the fields' are scaled."""
        return split_like(vector, self.shapes)

    def separate(self, arrays: Arrays) -> tuple[dict[str, NDArray[Any]], dict[str, Arrays]]:
        """Separate the result of `split` into the model's arrays and the fields', without their scales."""
        model = {name: arrays[name] for name in self.model if name in arrays}
        fields: dict[str, Arrays] = {
            field_: {name: arrays[f"{field_}/{name}"] / self.scales[field_] for name in expected}
            for field_, expected in self.fields.items()
        }
        return model, fields

    def update_in(self, content: RecordDict, received: ArrayRecord) -> Values:
        """Return the update of a reply to a client that received a model as one vector, `(dimension,)`."""
        joined = find_record(content, ArrayRecord, VECTOR)
        if joined is not None:
            return values_of(joined[VECTOR])
        trained = record_in(content, ArrayRecord, ARRAYS)
        if counters := self.counters:
            trained, received = without(trained, counters), without(received, counters)
        return self.to_vector(difference(trained, received), self.changes_in(content))

    def changes_in(self, content: RecordDict) -> dict[str, Arrays]:
        """Return the changes of the fields in a reply, in clear or as one vector."""
        joined = find_record(content, ArrayRecord, VECTOR)
        if joined is None:
            return {name: arrays_in(record_in(content, ArrayRecord, name)) for name in self.fields}
        _, changes = self.separate(self.split(values_of(joined[VECTOR])))
        return self.typed(changes)

    def put_in_clear(
        self, content: RecordDict, received: ArrayRecord, update: Values, *, keep_counters: bool = False
    ) -> None:
        """Write an update, `(dimension,)`, into a reply: received model plus update, and the changes of the fields.

        Counters are the received ones, or with `keep_counters` those in the reply.
        """
        model, changes = self.separate(self.split(update))
        protected = plus(received, model)
        if keep_counters:
            trained = record_in(content, ArrayRecord, ARRAYS)
            for name in self.counters:
                protected[name] = trained[name]
        content[ARRAYS] = protected
        for name, arrays in self.typed(changes).items():
            content[name] = record_of(arrays)

    def put_as_vector(self, content: RecordDict, update: Values) -> None:
        """Write an update, `(dimension,)`, into a reply as one vector, in the place of model and changes."""
        for name in self.records:
            content.pop(name, None)
        content[VECTOR] = record_of({VECTOR: update})

    def mismatch(self, fields: Fields, *, any_dtype: bool = False) -> str:
        """Return how values or changes of the fields differ from this layout; empty if they don't."""
        if wrong := _name_mismatch(fields, self.fields):
            return f"field {wrong}"
        for field_, expected in self.fields.items():
            arrays = fields[field_]
            if wrong := _name_mismatch(arrays, expected):
                return f"field {field_!r}: array {wrong}"
            for name, (shape, dtype) in expected.items():
                array = arrays[name]
                if array.shape != shape or not (any_dtype or array.dtype == dtype):
                    got = f"{array.dtype} of shape {tuple(array.shape)}"
                    return f"field {field_!r}: {name} is {got}; {dtype} of shape {shape} is needed"
        return ""

    def typed(self, changes: Fields) -> dict[str, Arrays]:
        """Return changes of the fields in the fields' own dtypes."""
        return {
            field_: {name: array.astype(self.fields[field_][name][1]) for name, array in arrays.items()}
            for field_, arrays in changes.items()
        }


def _name_mismatch(got: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Return a missing or an unknown name; empty if there is none."""
    missing = (f"{name!r} is missing" for name in expected if name not in got)
    unknown = (f"{name!r} is unknown" for name in got if name not in expected)
    return next(itertools.chain(missing, unknown), "")


def why_not_float(dtypes: Mapping[str, np.dtype[Any]]) -> str | None:
    """Return why a model's updates can't be clipped, summed or transformed, or None."""
    for name, dtype in dtypes.items():
        if dtype.kind != "f":
            return f"{name} is {dtype}: only floating-point updates can be clipped, summed or transformed"
    return None


def without(record: ArrayRecord, names: Collection[str]) -> ArrayRecord:
    """Return a record without some of its arrays."""
    rest = ArrayRecord()
    for name, array in record.items():
        if name not in names:
            rest[name] = array
    return rest


def difference(trained: ArrayRecord, received: ArrayRecord) -> Values:
    """Return the trained minus the received arrays, `(dimension,)`, in the widest of their dtypes.

    Raises:
        ValueError: Names, shapes or dtypes differ, or the arrays are not floating-point.
    """
    if trained.keys() != received.keys():
        raise ValueError("training returned other arrays than it received")
    before = arrays_in(received)
    if (why := why_not_float({name: old.dtype for name, old in before.items()})) is not None:
        raise ValueError(why)
    vector = np.empty(sum(old.size for old in before.values()), np.result_type(*before.values()))
    start = 0
    for name, old in before.items():
        new = values_of(trained[name])
        if (new.shape, new.dtype) != (old.shape, old.dtype):
            raise ValueError(f"training returned {name} with another shape or dtype than it received")
        np.subtract(new, old, out=vector[start : start + old.size].reshape(old.shape))
        start += old.size
    return vector


def plus(arrays: ArrayRecord, update: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Return arrays plus an update, by name; added in float64, in the arrays' dtypes, integers rounded.

    Arrays without an update stay as they are.
    """
    result = arrays_in(arrays)
    for name, change in update.items():
        old = result[name]
        new = np.asarray(np.add(old, change, dtype=np.float64))
        result[name] = (np.rint(new) if old.dtype.kind in "biu" else new).astype(old.dtype)
    return record_of(result)


def plus_vector(arrays: ArrayRecord, update: NDArray[np.float64]) -> ArrayRecord:
    """Return arrays plus an update, `(dimension,)`, in the arrays' dtypes."""
    return plus(arrays, split_like(update, {name: tuple(array.shape) for name, array in arrays.items()}))
