"""What a task is: the loss that is trained, and the metrics that score a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

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
        kind: What it is.
        shape: Its shape: `(channels, height, width)`, `(features,)` or `(length,)`.
        vocabulary: Number of different tokens of a text; 0 for other kinds.
    """

    kind: Kind
    shape: tuple[int, ...]
    vocabulary: int = 0

    @classmethod
    def of(cls, data: DataSpec) -> InputSpec:
        """Return the inputs of examples as they are."""
        return cls(kind=data.kind, shape=data.shape, vocabulary=data.vocabulary)


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """What a model returns for one input.

    Attributes:
        size: Numbers: logits of the classes, or one number a real-valued target.
        per_token: Whether there are so many at every position of a text.
    """

    size: int
    per_token: bool = False


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a model does on a set of examples.

    Attributes:
        loss: Mean loss.
        metrics: By their names, in the task's order. One that the examples don't define is absent.
        predictions: How many predictions were scored: one an example, or one a character.
    """

    loss: float
    metrics: Mapping[str, float]
    predictions: int


class Task(Protocol):
    """A prediction task.

    A class with these methods is a task; the catalogue, or `"module:callable"` in an experiment file, names it. It is
    called with the `DataSpec` of the examples, and its options as keyword arguments (a task of the catalogue: as one
    object). `targets`, `metrics` and `loss_unit` belong to the class: they are asked for before there is data.

    Attributes:
        targets: What the targets in the data must be.
        metrics: At least one; the first is the headline metric.
        loss_unit: Unit of the loss; empty: none that could be named.
        inputs: What a model gets.
        outputs: What a model returns.
    """

    targets: ClassVar[Targets]
    metrics: ClassVar[tuple[Metric, ...]]
    loss_unit: ClassVar[str]
    inputs: InputSpec
    outputs: OutputSpec

    def tensors(self, examples: Examples) -> tuple[Tensor, Tensor]:
        """Return inputs `(examples, *inputs.shape)` and targets `(examples, ...)` of at least one example."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar: what plain training descends."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's loss, `(examples,)`: what DP-SGD clips the gradients of.

        An example's loss must depend on its own outputs and target alone.
        """

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return sums over a batch, float64 `(sums,)`, from which `score` follows; as many for every batch."""

    def score(self, sums: Sequence[float]) -> Score:
        """Return the score of a set of examples from its sums: those of its batches, added up."""


def names_of(options: Any) -> dict[str, Any]:
    """Return free options as keyword arguments."""
    return {key.replace("-", "_"): value for key, value in (options.model_extra or {}).items()}
