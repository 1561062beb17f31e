"""Inputs and targets of data: all that a task, and so a model, needs to know."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from fedsim.catalogue import Kind, Targets

SPEC = "data"  # the record with the spec, for clients that bring their own data


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Inputs and targets of examples.

    Attributes:
        kind: What one input is.
        shape: Shape of one input: `(channels, height, width)`, `(features,)` or `(length,)`.
        classes: Number of labels; for next-character prediction, of characters; 0 for real-valued targets.
        vocabulary: Number of different tokens of a text; 0 for other kinds.
        per_token: Whether every position of a text has a label (next character), or the input has one target.
        values: Real-valued targets of an example; 0 if it has labels.
        divisor: What clients divide whole numbers in their own files by; None: what follows from their file.
    """

    kind: Kind
    shape: tuple[int, ...]
    classes: int = 0
    vocabulary: int = 0
    per_token: bool = False
    values: int = 0
    divisor: float | None = None

    @property
    def targets(self) -> Targets:
        """Kind of the targets."""
        if self.per_token:
            return Targets.TOKENS
        return Targets.VALUES if self.values else Targets.LABELS

    def dumps(self) -> str:
        """Return the spec as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> DataSpec:
        """Return the spec that `dumps` wrote."""
        tree = json.loads(text)
        return cls(**{**tree, "kind": Kind(tree["kind"]), "shape": tuple(tree["shape"])})
