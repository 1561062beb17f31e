"""What a client does for a privacy mechanism."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from numpy.typing import NDArray

from fedsim.privacy.events import Event
from fedsim.privacy.randomness import Randomness

if TYPE_CHECKING:
    from torch import Tensor, nn

    Losses = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class ClientRound:
    """One client's round.

    Attributes:
        round: From 1.
        client: Which client it is, from 0.
        records: Its training records.
        told: What the server told it (`ServerHalf.instructions`, `Plan.instructions`).
    """

    round: int
    client: int
    records: int
    instructions: Mapping[str, Any]


class ClientDraws(Protocol):
    """What a client draws: from named streams of a run's seed, or from the operating system."""

    def noise(self, purpose: str, at: ClientRound) -> Randomness:
        """Return what draws a client's noise in a round."""

    def noise_and_coins(self, noise: str, coins: str, at: ClientRound) -> Randomness:
        """Return what draws a client's noise and its batches in a round, from streams of these names."""


class Protected(NamedTuple):
    """What may leave the client of its update.

    Attributes:
        update: The difference between the trained model and the received one, `(dimension,)`.
        metrics: Of noised sums, by their names in a reply.
        event: For the ledger; None: the client releases nothing by itself.
    """

    update: NDArray[Any]
    metrics: Mapping[str, float]
    event: Event | None


class Steps(Protocol):
    """The steps of one local training; each sets the gradients, and yields the un-noised loss of its batch."""

    def __iter__(self) -> Iterator[float | None]:
        """Yield the mean loss of each step's batch; None where it has no record."""

    def stepped(self) -> None:
        """Do what is due after the optimizer's step."""

    def mean(self, losses: Sequence[float | None]) -> float:
        """Return the mean of the losses."""

    def event(self) -> Event | None:
        """Return the event of the steps that were taken; None: they release nothing by themselves."""


class Kernel(Protocol):
    """Computes the gradients of a model's local training; made once in a process."""

    def steps(self, inputs: Tensor, targets: Tensor, at: ClientRound) -> Steps:
        """Return the steps of a client's training.

        Args:
            inputs: All of its inputs, `(records, ...)`.
            targets: Theirs, `(records, ...)`.
            at: The client's round.

        Raises:
            ValueError: What it is told has no guarantee.
        """


class ClientHalf:
    """What a client does for a mechanism; by default nothing: it trains plainly, and sends its model.

    Attributes:
        releases: Whether the client releases by itself, so that its participations are counted.
        most: Participations of a client at most; None: there is no limit.
        protects: What leaves the client in the place of the trained model: a `difference` for the server to noise, or a
            `model` moved by a noised one; empty: the trained model itself.
    """

    releases: ClassVar[bool] = False
    protects: ClassVar[Literal["", "difference", "model"]] = ""
    most: int | None = None

    def kernel(self, model: nn.Module, losses: Losses, plain: Kernel) -> Kernel:
        """Return what computes the gradients.

        Args:
            model: Trained in place.
            losses: Of each record, from the model's outputs and the targets.
            plain: The kernel without privacy.

        Raises:
            ValueError: The model can't be trained so.
        """
        return plain

    def check_instructions(self, at: ClientRound) -> None:
        """Refuse what the server tells where the experiment's guarantee would not hold for this client.

        Raises:
            ValueError: It would not.
        """

    def protect(self, update: NDArray[Any], metrics: Mapping[str, float], at: ClientRound) -> Protected:
        """Return what may leave the client of an update.

        Args:
            update: The difference that training made, `(dimension,)`; may be overwritten.
            metrics: Of the training, by name.
            at: The client's round.
        """
        raise NotImplementedError("a mechanism that protects updates says how")
