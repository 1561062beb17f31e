"""Next-character prediction: each position of a text is labelled with the next character."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedsim.catalogue import Targets
from fedsim.tasks.classification import Classification
from fedsim.tasks.task import inputs_of

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.data.federated import Examples


class NextCharacter(Classification):
    """Classification of every position: logits `(examples, length, characters)`; an example's loss is their mean."""

    targets: ClassVar[Targets] = Targets.TOKENS

    def tensors(self, examples: Examples) -> tuple[Tensor, Tensor]:
        """Return all characters but the last, and all but the first: int64 `(examples, length)` both."""
        if examples.y is not None:
            raise TypeError("text with labels of its own; next-character prediction needs none")
        x = inputs_of(examples)
        return x[:, :-1], x[:, 1:]
