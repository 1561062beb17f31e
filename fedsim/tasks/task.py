"""The interface of tasks: the loss to train, and the metrics that score a model; with examples as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.catalogue import Kind, Targets
from fedsim.tasks.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.data.federated import Examples
    from fedsim.data.spec import DataSpec


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One input of a model.

    Attributes:
        kind: Its kind.
        shape: Its shape: `(channels, height, width)`, `(features,)` or `(length,)`.
        vocabulary: Number of different tokens of a text; 0 for other kinds.
    """

    kind: Kind
    shape: tuple[int, ...]
    vocabulary: int = 0

    @classmethod
    def of(cls, data: DataSpec) -> InputSpec:
        """Return the spec of unchanged inputs."""
        return cls(kind=data.kind, shape=data.shape, vocabulary=data.vocabulary)


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """What a model returns for one input.

    Attributes:
        size: Numbers: logits of the classes, or one number a real-valued target.
        per_token: Whether every position of a text has this many.
    """

    size: int
    per_token: bool = False


@dataclass(frozen=True, kw_only=True)
class Score:
    """A model's score on a set of examples.

    Attributes:
        loss: Mean loss.
        metrics: By name, in the task's order; undefined ones are absent.
        predictions: Number of scored predictions: one an example, or one a character.
    """

    loss: float
    metrics: Mapping[str, float]
    predictions: int


class Task(Protocol):
    """A prediction task.

    A class with these methods is a task; the catalogue, or `"module:callable"` in an experiment file, names it. It is
    called with the `DataSpec` of the examples, and its options as keyword arguments (a task of the catalogue: as one
    object). `targets`, `metrics` and `loss_unit` belong to the class: they are needed before there is data.

    Attributes:
        targets: Required kind of targets.
        metrics: At least one; the first is the headline metric.
        loss_unit: Unit of the loss; may be empty.
        inputs: The model's inputs.
        outputs: The model's outputs.
    """

    targets: ClassVar[Targets]
    metrics: ClassVar[tuple[Metric, ...]]
    loss_unit: ClassVar[str]
    inputs: InputSpec
    outputs: OutputSpec

    def tensors(self, examples: Examples) -> tuple[Tensor, Tensor]:
        """Return inputs `(examples, *inputs.shape)` and targets `(examples, ...)` of at least one example."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar, for plain training."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's loss, `(examples,)`, for DP-SGD's per-example gradients.

        An example's loss must depend only on its own outputs and target.
        """

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return sums over a batch for `score`, float64 `(sums,)`, as many for every batch."""

    def score(self, sums: Sequence[float]) -> Score:
        """Return the score of a set of examples from the total of its batches' sums."""


def inputs_of(examples: Examples) -> Tensor:
    """Return inputs: float32 `(examples, *shape)`, uint8 images divided by 255; text int64 `(examples, length)`."""
    import torch

    x = torch.from_numpy(examples.x)
    if examples.kind is Kind.TEXT:
        return x.long()
    return x.float() / 255 if x.dtype == torch.uint8 else x


def outputs_of(outputs: Any) -> Tensor:
    """Return a model's outputs: a tensor, or the one that a dict holds as `logits`; raises `ValueError` for others."""
    import torch

    found = outputs.get("logits") if isinstance(outputs, Mapping) else outputs
    if not isinstance(found, torch.Tensor):
        kind = f"{type(outputs).__name__} without 'logits'" if found is None else type(outputs).__name__
        raise ValueError(f"its forward returns {kind}; a tensor is needed, or a dict with one as 'logits'")
    return found


def targets_of(examples: Examples, dtype: type[np.generic]) -> NDArray[Any]:
    """Return the targets; raises `TypeError` if there are none, or they have another dtype."""
    if examples.y is None or examples.y.dtype != dtype:
        found = "none" if examples.y is None else examples.y.dtype
        raise TypeError(f"{examples.kind} examples with targets of {np.dtype(dtype)} are needed, not {found}")
    return examples.y
