"""The two halves of a privacy mechanism: the client's and the server's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.events import Event
from fedsim.privacy.randomness import Randomness

if TYPE_CHECKING:
    from torch import Tensor, nn

Sums = Mapping[str, NDArray[np.float64]]
Losses = Callable[["Tensor", "Tensor"], "Tensor"]
"""Maps outputs and targets to the loss of each record, `(n,)`."""


@dataclass(frozen=True, kw_only=True)
class ClientRound:
    """One client's round.

    Attributes:
        round: From 1.
        client: The client's number, from 0.
        records: Number of its training records.
        instructions: From the server (`ServerHalf.instructions`, `Plan.instructions`).
    """

    round: int
    client: int
    records: int
    instructions: Mapping[str, Any]


class ClientDraws(Protocol):
    """A client's randomness, from named streams of a run's seed or from the operating system."""

    def noise(self, purpose: str, at: ClientRound) -> Randomness:
        """Return the source of a client's noise in a round."""

    def noise_and_coins(self, noise: str, coins: str, at: ClientRound) -> Randomness:
        """Return the source of a client's noise and batches in a round, from streams of these names."""


class Protected(NamedTuple):
    """A protected update, which may leave the client.

    Attributes:
        update: Trained model minus received model, clipped or noised, `(dimension,)`.
        metrics: For noised sums, by their names in a reply.
        event: For the ledger; None: the client does not release the update itself.
    """

    update: NDArray[Any]
    metrics: Mapping[str, float]
    event: Event | None


class Steps(Protocol):
    """The steps of one local training; each sets the gradients and yields its batch's un-noised loss."""

    def __iter__(self) -> Iterator[float | None]:
        """Yield the mean loss of each step's batch; None for an empty batch."""

    def stepped(self) -> None:
        """Called after the optimizer's step."""

    def mean(self, losses: Sequence[float | None]) -> float:
        """Return the mean of the losses."""

    def event(self) -> Event | None:
        """Return the event of the steps taken; None: they are no private release."""


class Kernel(Protocol):
    """Computes the gradients of a model's local training; made once in a process."""

    def steps(self, inputs: Tensor, targets: Tensor, at: ClientRound) -> Steps:
        """Return the steps of a client's training on all its `inputs` and `targets`, `(records, ...)` each.

        Raises `ValueError` if no guarantee is known for the server's instructions.
        """


class ClientHalf:
    """The client's half of a mechanism. By default the client trains without privacy and sends its model.

    Attributes:
        releases: Whether the client releases its update itself, so that its participations are counted.
        most: Most participations of a client; None: no limit.
        protects: Form of a protected update: a clipped `difference` for the server to noise, or a `model`, the
            received one plus a noised difference. Empty: the trained model, unprotected.
    """

    releases: ClassVar[bool] = False
    protects: ClassVar[Literal["", "difference", "model"]] = ""
    most: int | None = None

    def kernel(self, model: nn.Module, losses: Losses, plain: Kernel) -> Kernel:
        """Return the kernel that trains the model in place (`plain`: without privacy); `ValueError` if there is none."""
        return plain

    def check_instructions(self, at: ClientRound) -> None:
        """Raise `ValueError` if the server's instructions break the experiment's guarantee for this client."""

    def protect(self, update: NDArray[Any], metrics: Mapping[str, float], at: ClientRound) -> Protected:
        """Protect an update: trained model minus received model, `(dimension,)`, which may be overwritten."""
        raise NotImplementedError("a mechanism that protects updates must define protect")


class Released(NamedTuple):
    """A round's release.

    Attributes:
        mean: Noised mean update, by name.
        metrics: Noised means of clients' metrics, by name.
        event: For the ledger.
    """

    mean: Sums
    metrics: Mapping[str, float]
    event: Event


class ServerHalf:
    """The server's half of a mechanism. By default it does nothing: sums are used unchanged.

    Attributes:
        noises: Whether clients send clipped differences, and the server releases their noised sum in every round, also
            in one without updates.
        key: Secret key of the noise if it is kept between the sessions of a run; else empty.
    """

    noises: ClassVar[bool] = False
    key: bytes = b""

    def instructions(self) -> dict[str, Any]:
        """Return instructions for clients, for a message's config."""
        return {}

    def prefetch(self, round_: int) -> None:
        """Begin to draw a round's noise while clients train."""

    def release(self, total: Sums, round_: int, reported: Mapping[str, float]) -> Released:
        """Noise a round's sums.

        Args:
            total: Sum of the clipped updates, float64, by name; zeros without updates.
            round_: From 1.
            reported: Sums of the metrics of `Mechanism.metric_terms`, by their names in the ledger; 0 without updates.

        Raises:
            ValueError: The round can't be released, or was already.
        """
        raise NotImplementedError("a mechanism that noises sums must define release")

    def planned(self, round_: int) -> Event | None:
        """Return the event by which a round counts that was begun and abandoned; None: it costs nothing."""
        return None

    def state(self) -> dict[str, Any]:
        """Return the state that the next rounds depend on, without the key, as a tree for the checkpoint."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises `ValueError` if it belongs to another mechanism."""
