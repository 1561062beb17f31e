"""What a privacy mechanism is: settings, a plan made of them for a training, and what server and clients do by it.

A mechanism's package under `fedsim.privacy` implements these; the rest of fedsim knows mechanisms by them alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.cohorts.sampling import CohortSampling, IndependentCohorts
from fedsim.privacy.disclosure import Cover
from fedsim.privacy.events import Event, Noise, Unit
from fedsim.privacy.intent import CohortRule, Intent, LocalWork, Problem
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.randomness import Randomness
from fedsim.privacy.rounding import sensitivity_after_rounding
from fedsim.privacy.settings import Section

if TYPE_CHECKING:
    from torch import Tensor, nn

    Losses = Callable[[Tensor, Tensor], Tensor]

Sums = Mapping[str, NDArray[np.float64]]
S = TypeVar("S", bound=Section)

NOISE = {
    Noise.SEEDED: "seeded: epsilon is the mechanism's, not this artefact's; whoever has the seed has the noise",
    Noise.SYSTEM: "of the operating system, added exactly on a grid; the manifest's arithmetic says what remains",
}


class Unfit(ValueError):
    """Settings that don't fit the training: the key in the mechanism's table, its value and what is allowed."""

    def __init__(self, key: str, value: Any, message: str) -> None:
        super().__init__(f"{key} = {value}: {message}")


# --- what is to be protected --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SecureSum:
    """What secure aggregation does to the numbers that it sums.

    Attributes:
        clip: Largest magnitude of a coordinate; what is beyond is cut.
        step: Of the grid that coordinates are rounded to.
        metric_step: Of the grid that metrics are rounded to.
    """

    clip: float
    step: float
    metric_step: float


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training that a mechanism protects: what the experiment, the data and the model say of it.

    Attributes:
        rounds: Of the whole run, 1 or more.
        rule: How cohorts are drawn.
        records: Training records of each client, `(clients,)`.
        shapes: Of the model's arrays, in their order.
        work: Of a client in a round.
        noise: Where noise comes from.
        arithmetic: How noise is added.
        secure: What secure aggregation does to the numbers; None: sums are taken in clear.
    """

    rounds: int
    rule: CohortRule
    records: NDArray[np.int64]
    shapes: Mapping[str, tuple[int, ...]]
    work: LocalWork
    noise: Noise
    arithmetic: Arithmetic
    secure: SecureSum | None = None

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return len(self.records)

    @property
    def dimension(self) -> int:
        """Numbers in the model."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def sum_sensitivity(self, clip: float) -> float:
        """Return the L2 sensitivity of a sum of updates clipped to a norm: more where secure aggregation rounds them."""
        if self.secure is None:
            return clip
        return sensitivity_after_rounding(clip, self.dimension, self.secure.step)


class Draws(Protocol):
    """Named streams of a run's seed, or of the operating system's coins where nobody is to have them."""

    @property
    def source(self) -> Noise:
        """Where noise comes from."""

    def noise(self, purpose: str, round_: int) -> Randomness:
        """Return what draws the server's noise of a round."""

    def coins(self, round_: int) -> np.random.Generator:
        """Return what draws a round's cohort."""


# --- the server's half --------------------------------------------------------------------------------------


class Released(NamedTuple):
    """What a round releases.

    Attributes:
        mean: Of the updates, noised, by name.
        metrics: Means of what clients reported, noised, by the metrics' names.
        event: For the ledger.
    """

    mean: Sums
    metrics: Mapping[str, float]
    event: Event


class ServerHalf:
    """What the server does for a mechanism; by default nothing: sums are used as they are.

    Attributes:
        noises: Whether clients send clipped differences, whose sum is noised here and released in every round, that of
            no updates too.
        key: The secret key that noise is drawn from, where it is kept between the sessions of a run; else empty.
    """

    noises: ClassVar[bool] = False
    key: bytes = b""

    def instructions(self) -> dict[str, Any]:
        """Return what clients are told, for a message's config."""
        return {}

    def prefetch(self, round_: int) -> None:
        """Begin to draw a round's noise, while clients train."""

    def release(self, total: Sums, round_: int, reported: Mapping[str, float]) -> Released:
        """Noise a round's sums.

        Args:
            total: Sum of the clipped updates, float64, by name; zeros where there were none.
            round_: From 1.
            reported: Sums of the metrics that clients sent for it (`Mechanism.metric_terms`), by their names in the
                ledger; 0 where there were none.

        Raises:
            ValueError: The round can't be released (again).
        """
        raise NotImplementedError("a mechanism that noises sums says how")

    def state(self) -> dict[str, Any]:
        """Return what the next rounds depend on beside the key, as a tree for the checkpoint."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: It is of another mechanism.
        """


# --- the client's half --------------------------------------------------------------------------------------


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
    told: Mapping[str, Any]


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

    def steps(self, inputs: Tensor, labels: Tensor, at: ClientRound) -> Steps:
        """Return the steps of a client's training.

        Args:
            inputs: All of its inputs, `(records, ...)`.
            labels: Their labels, `(records, ...)`.
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
            losses: Of each record, from the model's outputs and the labels.
            plain: The kernel without privacy.

        Raises:
            ValueError: The model can't be trained so.
        """
        return plain

    def check_told(self, at: ClientRound) -> None:
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


# --- the plan -----------------------------------------------------------------------------------------------


class Plan(ABC):
    """A mechanism's noise for a training, and what it costs.

    Nothing goes on past its budget: `check_room` counts what the ledger has, and compares it with what is planned for
    the whole run. Whole numbers do: what a run releases is one mechanism over and over, with the noise, the rate and
    the sensitivity of the plan, and epsilon of a composition never falls with one more of them (leaving the last ones
    out is post-processing). So a count within the plan's keeps what is spent within the epsilon that the plan was
    made for.

    Attributes:
        by_clients: Whether clients release their updates, so that their events come with their replies; else the server
            releases sums.
        cohorts: The public rule of the cohorts.
        noise_multiplier: Given, or calibrated for the epsilon that was asked for.
    """

    by_clients: ClassVar[bool]
    cohorts: Cohorts
    noise_multiplier: float

    def instructions(self) -> dict[str, Any]:
        """Return what clients are told, for a message's config."""
        return {}

    def sampling(self, draws: Draws) -> CohortSampling:
        """Return what draws the cohorts."""
        return IndependentCohorts(self.cohorts, draws.coins)

    def server(self, draws: Draws) -> ServerHalf:
        """Return the server's half.

        Raises:
            ValueError: No theorem covers these values.
        """
        return ServerHalf()

    def spent_out(self, ledger: Ledger, clients: Sequence[int]) -> dict[int, str]:
        """Return why some of the clients that were drawn are not asked: they have released all that they may."""
        return {}

    @abstractmethod
    def check_room(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> None:
        """Refuse a round that would bring a count of releases above what is planned for the whole run.

        Args:
            ledger: What was released so far.
            round_: That is about to begin, or to release its sum; from 1.
            clients: That are about to be asked.

        Raises:
            ValueError: It would, or the ledger is not of this mechanism.
        """

    def charge(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> list[Event]:
        """Return the events of what clients that are about to be asked release by themselves, at most."""
        return []

    @abstractmethod
    def row(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return what the row of a round says: epsilon so far, by adversary, with what belongs to it.

        Args:
            ledger: What was released so far.
            rounds: That were begun.

        Raises:
            ValueError: The ledger is not of this mechanism.
        """

    @abstractmethod
    def report(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return what the manifest says, by adversary: epsilon of the whole run, and what is spent. As `row`."""


class ReleasedByClients(Plan):
    """The plan of a mechanism whose clients release their updates.

    Clients have disjoint data: what one has spent is nothing to the others.

    Attributes:
        most: Participations of a client at most; None: there is no limit.
        participations: Of a client in the whole run, at most.
    """

    by_clients = True
    most: int | None
    participations: int

    @abstractmethod
    def releases(self, client: int) -> int:
        """Return how often a client releases in a round."""

    @abstractmethod
    def planned(self, round_: int, client: int) -> Event:
        """Return the event of what a client is to release in a round."""

    def spent_out(self, ledger: Ledger, clients: Sequence[int]) -> dict[int, str]:
        """Return why some of the clients that were drawn are not asked: they have released all that they may.

        They would refuse by their own count, but for what a worker that died had not yet said of it: that is in the
        ledger alone.
        """
        if self.most is None:
            return {}
        why = f"BudgetExhausted: has taken part in {self.participations} rounds, all that max-participations allows"
        return {c: why for c in clients if ledger.releases_of(c) == self.participations * self.releases(c)}

    def check_room(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> None:
        """Refuse a round in which a client's releases would become more than are planned for it. As `Plan` says."""
        for client in clients:
            so_far, planned = ledger.releases_of(client), self.participations * self.releases(client)
            if so_far + self.releases(client) > planned:
                raise ValueError(
                    f"client {client} has {so_far} releases in the ledger, of {planned} that are planned for the whole "
                    f"run, and would have {self.releases(client)} more; nothing goes on past its budget"
                )

    def charge(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> list[Event]:
        """Return the events of what clients that are about to be asked release by themselves, at most.

        Nobody is charged beyond its participations, for a client refuses to go beyond them.
        """
        so_far = {} if self.most is None else ledger.participations()
        may = (client for client in clients if self.most is None or so_far.get(client, 0) < self.most)
        return [self.planned(round_, client) for client in may]


# --- the mechanism ------------------------------------------------------------------------------------------


class Mechanism(ABC, Generic[S]):
    """A privacy mechanism; one object, without state.

    Its module is loaded whenever an experiment is validated, so it loads neither PyTorch nor SciPy: `plan` does.

    Attributes:
        name: Its table under `[privacy]`; `own` for a user's own, which stands in no catalogue.
        unit: What it protects.
        Settings: The keys of its table.
        events: Its kinds of ledger lines: the `mechanism` of each, and the class.
        covers: What its theorems let each adversary have, where noise is the operating system's.
        report_terms: Keys of an entry of `Plan.report`, beside those that all mechanisms share, which may be public
            where noise is the operating system's: functions of the plan.
        tuned: Keys of its table, or tables in it, that change how well it learns and not what it promises.
        defaults: Keys that are set where an experiment doesn't set them, such as `{"server.weighting": "uniform"}`.
        separates: Whether it keeps a client's participations apart, as `server.sampling = "b-min-sep"` needs.
        counts_records: Whether the server must know how many examples each client has, to account for it.
    """

    name: ClassVar[str] = "own"
    unit: ClassVar[Unit]
    Settings: type[S]
    events: ClassVar[Mapping[str, type[Event]]] = {}
    covers: ClassVar[tuple[Cover, ...]] = ()
    report_terms: ClassVar[frozenset[str]] = frozenset()
    tuned: ClassVar[frozenset[str]] = frozenset({"clip"})
    defaults: ClassVar[Mapping[str, Any]] = {}
    separates: ClassVar[bool] = False
    counts_records: ClassVar[bool] = False

    def hides_clients(self, settings: S) -> bool:
        """Say whether the number of clients is protected, so that no public constant may be made of it."""
        return False

    def has_given_noise(self, settings: S) -> bool:
        """Say whether the noise is given, and epsilon follows from it; else epsilon is, or there is none."""
        return getattr(settings, "noise_multiplier", None) is not None

    def check(self, settings: S, intent: Intent) -> Iterable[Problem]:
        """Return what an experiment says that this mechanism can't stand beside; the first one is told."""
        return ()

    def check_model(
        self,
        settings: S,
        model: nn.Module,
        losses: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        labels: Tensor,
    ) -> None:
        """Refuse a model that can't be trained under the mechanism.

        Args:
            settings: The mechanism's table.
            model: May be put into training mode.
            losses: Returns the loss of each example, `(n,)`, of the model's outputs and the labels.
            inputs: Of made-up examples, `(n, *shape)`.
            labels: Theirs, `(n,)` or `(n, length)`.

        Raises:
            Unfit: A key of the table doesn't fit the model.
            ValueError: The model can't be trained so, whatever the table says.
        """

    @abstractmethod
    def plan(self, settings: S, training: Training) -> Plan:
        """Return the noise for a training: given, or calibrated, which may take seconds.

        Raises:
            ValueError: The settings don't fit the training (`Unfit`), no noise reaches the epsilon, or no theorem
                covers these values.
        """

    @abstractmethod
    def client(self, settings: S, intent: Intent, draws: ClientDraws) -> ClientHalf:
        """Return the client's half; it calibrates nothing that takes long, for every process makes one.

        Raises:
            ValueError: No noise reaches the epsilon.
        """

    def metric_terms(self, settings: S) -> Mapping[str, str]:
        """Return the metrics that clients send for noised sums: the name in a reply, by the name in the ledger."""
        return {}


def check_delta_of_clients(delta: float, clients: int) -> None:
    """Refuse a delta that is too large for so few clients.

    Raises:
        Unfit: It is.
    """
    if delta >= 1 / clients:
        raise Unfit(
            "delta",
            delta,
            f"must be below 1 / clients = 1 / {clients}: a mechanism that publishes one client at random would pass",
        )
