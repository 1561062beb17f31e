"""What an algorithm is: fields of messages, the clients' work, and what the server makes of their changes."""

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
    """A field of messages beside the model: the server sends its value, a client sends by how much it changes it.

    Attributes:
        scale: What a unit of the field counts beside a unit of the model where both are clipped, noised or rounded as one
            vector, above 0: a public constant.
        kept: Whether each client keeps a value of its own, which begins as the server's first one and changes by what the
            client has sent, once the server has confirmed that this was in the round's sum.
    """

    scale: float = 1.0
    kept: bool = False


@dataclass(frozen=True)
class Trained:
    """What local training reports: the mean loss over its steps, and how many steps there were.

    The loss is of the examples as they are, even where the steps are noised, as DP-SGD's: no field may depend on it there.
    """

    loss: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """One client's work in a round.

    Attributes:
        parameters: The model's trained parameters, by name: the received ones, to be changed in place.
        fields: The fields as the server sent them; to read only.
        own: The client's own values of the fields that it keeps; to read only.
        learning_rate: Of the round, above 0.
        steps: Plays all steps of the optimizer, as the experiment and its privacy mechanism say, and calls its argument
            after each of them.
    """

    parameters: Mapping[str, Tensor]
    fields: Fields = field(default_factory=dict)
    own: Fields = field(default_factory=dict)
    learning_rate: float
    steps: Callable[[Callable[[], None]], Trained]

    def train(self, after_step: Callable[[], None] = lambda: None) -> Trained:
        """Train the parameters, once; `after_step` may change them after each step of the optimizer."""
        return self.steps(after_step)


class Algorithm(ABC):
    """What travels beside the model, how clients train, and what the server makes of the fields.

    The model itself is the strategy's: an algorithm says nothing of it but by how clients train it. Server and clients
    each make an object of it, with the table `[algorithm]` as keyword arguments; it keeps nothing from round to round but
    its fields. Under a privacy mechanism the model's update and the fields' changes are one vector, which is clipped and
    noised as one; a field's change must depend on the examples through the training alone.

    Attributes:
        fields: By name, which is the name of a record in messages.
    """

    fields: Mapping[str, Field] = {}

    def init(self, parameters: Arrays) -> Fields:
        """Return each field before the first round.

        Args:
            parameters: The model's trained parameters before the first round, by name.
        """
        return {}

    @abstractmethod
    def train(self, job: Job) -> tuple[Trained, Fields]:
        """Train; return what the training reports, and by how much each field changes.

        Args:
            job: The client's round.
        """

    def update(self, fields: Fields, change: Fields, share: float) -> Fields:
        """Return the fields after a round.

        Args:
            fields: Before it.
            change: Mean of the changes over the clients of the round, each counted the same; float64, noised where the
                mechanism noises sums.
            share: Of all clients, how many the mean is over (under a mechanism that noises sums: are expected to be);
                above 0, at most 1.
        """
        return fields

    def warning(self, share: float) -> str:
        """Return why a run may collapse; empty where nothing speaks against it.

        Args:
            share: Of all clients, how many take part in a round; above 0, at most 1.
        """
        return ""
