"""The protocol of an algorithm: extra fields of messages, local training, and the server's update of the fields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Arrays = Mapping[str, NDArray[Any]]
Fields = Mapping[str, Arrays]


@dataclass(frozen=True, kw_only=True)
class Field:
    """An extra field of messages: the server sends its value, a client sends a change to it.

    Attributes:
        scale: Factor of the field in the vector that is clipped, noised or rounded with the model's update; above 0, a
            public constant.
        kept: Whether each client keeps a value of its own. It is initially the server's first value. A change that the client
            has sent is added once the server has confirmed that the round's sum includes it.
    """

    scale: float = 1.0
    kept: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """One client's work in a round.

    Attributes:
        parameters: The model's trained parameters, by name: the received ones, to be trained in place.
        fields: The fields as the server sent them; read-only.
        own: The client's own values of the kept fields; read-only.
        learning_rate: Of the round, above 0.
        steps: Does all steps of the optimizer, as the experiment and its privacy mechanism define them, and calls its
            argument after each; returns how many there were.
    """

    parameters: Mapping[str, Tensor]
    fields: Fields = field(default_factory=dict)
    own: Fields = field(default_factory=dict)
    learning_rate: float
    steps: Callable[[Callable[[], None]], int]

    def train(self, after_step: Callable[[], None] = lambda: None) -> int:
        """Train the parameters, once, and return the number of steps, 1 or more.

        `after_step` is called after each step of the optimizer, and may change the parameters. The loss is not told:
        under DP-SGD it has no noise, and no field may depend on it.
        """
        return self.steps(after_step)


class Algorithm(ABC):
    """Local training, the extra fields of messages, and the server's update of the fields.

    The strategy aggregates the model; the algorithm only trains it. Server and clients each make an instance, with the
    table `[algorithm]` as keyword arguments. Its only state between rounds is its fields. Under a privacy mechanism the
    model's update and the fields' changes are clipped and noised as one vector; a field's change must depend on the
    examples only through the training.

    Attributes:
        fields: By name, which is also the name of the record in messages.
    """

    fields: Mapping[str, Field] = {}

    def init(self, parameters: Arrays) -> Fields:
        """Return each field before the first round, from the model's trained parameters then, by name."""
        return {}

    @abstractmethod
    def train(self, job: Job) -> Fields:
        """Train, by one call of `job.train`; return a change to each field."""

    def update(self, fields: Fields, change: Fields, share: float) -> Fields:
        """Return the fields after a round.

        Args:
            fields: Before it.
            change: Unweighted mean of the changes over the clients of the round; float64, noised where the mechanism noises
                sums.
            share: Fraction of all clients that the mean is over (under a mechanism that noises sums: the expected one);
                above 0, at most 1.
        """
        return fields

    def warning(self, share: float) -> str:
        """Return why a run with a fraction of all clients, above 0, at most 1, in a round may collapse; else ""."""
        return ""
