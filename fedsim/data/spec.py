"""What data is made of: all that a task, and so a model, needs to know of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from fedsim.catalogue import Kind, Targets

SPEC = "data"  # the record in which a server tells clients that bring their own data what they are to bring


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Inputs and targets of examples.

    Attributes:
        kind: What one input is.
        shape: Shape of one input: `(channels, height, width)`, `(features,)` or `(length,)`.
        classes: Number of labels; for next-character prediction, of characters; 0 where targets are real values.
        vocabulary: Number of different tokens of a text; 0 for other kinds.
        per_token: Whether every position of a text has a label (next character), or the input has one target.
        values: Real-valued targets of an example; 0 where it has labels.
    """

    kind: Kind
    shape: tuple[int, ...]
    classes: int = 0
    vocabulary: int = 0
    per_token: bool = False
    values: int = 0

    @property
    def targets(self) -> Targets:
        """What the targets are."""
        if self.per_token:
            return Targets.TOKENS
        return Targets.VALUES if self.values else Targets.LABELS

    def dumps(self) -> str:
        """Return the spec as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> DataSpec:
        """Return a spec from what `dumps` has made."""
        tree = json.loads(text)
        return cls(**{**tree, "kind": Kind(tree["kind"]), "shape": tuple(tree["shape"])})
