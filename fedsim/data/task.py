"""What a model is asked to do: all that it needs to know of the data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from fedsim.catalogue import Kind

TASK = (
    "task"  # the record in which a server tells clients that bring their own data what they are asked to do
)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A prediction task.

    Attributes:
        kind: What one input is.
        shape: Shape of one input: `(channels, height, width)`, `(features,)` or `(length,)`.
        classes: Number of labels; for next-character prediction, of characters.
        vocabulary: Number of different tokens of a text; 0 for other kinds.
        per_token: Whether every position of a text has a label (next character), or the input has one.
    """

    kind: Kind
    shape: tuple[int, ...]
    classes: int
    vocabulary: int = 0
    per_token: bool = False

    def dumps(self) -> str:
        """Return the task as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Task:
        """Return a task from what `dumps` has made."""
        tree = json.loads(text)
        return cls(**{**tree, "kind": Kind(tree["kind"]), "shape": tuple(tree["shape"])})
