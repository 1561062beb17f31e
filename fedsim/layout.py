"""The arrays of an update, and their order in one vector: the model's, then each field's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from fedsim.arrays import Values
from fedsim.messages import ARRAYS, VECTOR
from fedsim.privacy.vectors import dimension_of, split_like

if TYPE_CHECKING:
    from fedsim.algorithms.protocol import Algorithm, Arrays, Fields

Shape = tuple[int, ...]
Expected = Mapping[str, tuple[Shape, np.dtype[Any]]]  # shape and dtype of each array, by name


@dataclass(frozen=True)
class Layout:
    """The arrays of a model and of an algorithm's fields.

    In a vector, a field's numbers are multiplied by its scale.

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
    def shapes(self) -> dict[str, Shape]:
        """Shapes in the order of the vector: the model's by name, a field's by `field/name`."""
        shapes = {name: shape for name, (shape, _) in self.model.items()}
        for field_, arrays in self.fields.items():
            shapes |= {f"{field_}/{name}": shape for name, (shape, _) in arrays.items()}
        return shapes

    @property
    def dimension(self) -> int:
        """Numbers in an update."""
        return dimension_of(self.shapes.values())

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
        model = {name: arrays[name] for name in self.model}
        fields: dict[str, Arrays] = {
            field_: {name: arrays[f"{field_}/{name}"] / self.scales[field_] for name in expected}
            for field_, expected in self.fields.items()
        }
        return model, fields

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

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of an update as one vector: the widest."""
        return np.result_type(
            *(d for arrays in (self.model, *self.fields.values()) for _, d in arrays.values())
        )


def _name_mismatch(got: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Return a missing or an unknown name; empty if there is none."""
    for name in expected:
        if name not in got:
            return f"{name!r} is missing"
    for name in got:
        if name not in expected:
            return f"{name!r} is unknown"
    return ""
