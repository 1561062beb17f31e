"""`fedsim budget dp-fedavg` and `local-dp`: plans of client-level privacy."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from fedsim.cli.budget import Target
from fedsim.cli.budget_options import EPSILON, JSON, ROUNDS, exactly_one
from fedsim.cli.exit_codes import exit_codes
from fedsim.errors import Refused

NOISE = typer.Option(
    metavar="Z",
    help="Standard deviation of the noise on the cohort's sum / the clip norm.",
    show_default=False,
)


class CohortSampling(StrEnum):
    """How cohorts are drawn."""

    POISSON = "poisson"
    TRUNCATED_POISSON = "truncated-poisson"
    FIXED = "fixed"


class CentralRelation(StrEnum):
    """Which data sets are neighbours."""

    ZERO_OUT = "zero-out"
    ADD_OR_REMOVE_ONE = "add-or-remove-one"


class LocalLaw(StrEnum):
    """What a client's noise is distributed as."""

    GAUSSIAN = "gaussian"
    LAPLACE = "laplace"


def dp_fedavg(
    *,
    noise_multiplier: Annotated[float | None, NOISE] = None,
    epsilon: Annotated[float | None, EPSILON] = None,
    rounds: Annotated[int, ROUNDS],
    delta: Annotated[float, typer.Option(metavar="D", help="Must be below 1 / clients.", show_default=False)],
    client_rate: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Expected cohort / clients; 1: all clients, always. With add-or-remove-one, the rate that is declared "
            "(--cohort may stand beside it).",
            show_default=False,
        ),
    ] = None,
    clients: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Clients; with --cohort, instead of --client-rate.", show_default=False
        ),
    ] = None,
    cohort: Annotated[
        int | None, typer.Option(metavar="M", help="Clients in a cohort, expected.", show_default=False)
    ] = None,
    sampling: Annotated[
        CohortSampling | None,
        typer.Option(
            help="How cohorts are drawn. Default: poisson, or truncated with --max-cohort.",
            show_default=False,
        ),
    ] = None,
    max_cohort: Annotated[
        int | None,
        typer.Option(
            metavar="B",
            help="A larger cohort is cut to a random subset of so many; needs --clients.",
            show_default=False,
        ),
    ] = None,
    participations: Annotated[
        int | None,
        typer.Option(
            metavar="R",
            help="In how many rounds a client takes part at most. Default: as the coins say.",
            show_default=False,
        ),
    ] = None,
    relation: Annotated[
        CentralRelation,
        typer.Option(
            help="Which data sets are neighbours. add-or-remove-one protects the number of clients: it needs a declared "
            "--client-rate, and poisson cohorts."
        ),
    ] = CentralRelation.ZERO_OUT,
    adversary: Annotated[
        Target | None,
        typer.Option(
            help="Against whom --epsilon is to hold. Default: released-models; known-cohort with --participations.",
            show_default=False,
        ),
    ] = None,
    mean_noise: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="With --epsilon: say what cohort and population it takes if the noise on the mean update may have "
            "a standard deviation of S clip norms.",
            show_default=False,
        ),
    ] = None,
    population: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="N M",
            help="Also that of a deployment to N clients with cohorts of M, which the run stands for with the same "
            "noise on the mean; needs --cohort.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Plan client-level DP-FedAvg: a client's epsilon for each adversary, without running anything.

    Give either --noise-multiplier or --epsilon. The server is trusted: it has the sums before the noise. "Known
    cohort" sees each round's model and knows who took part; "released models" sees the models alone, cohorts being
    secret coins. With adaptive clipping or metrics that are released, Z is that of all together.
    """
    from fedsim.cli.budget_central_view import CentralPlan

    with exit_codes():
        exactly_one(noise_multiplier, epsilon)
        if epsilon is None and adversary is not None:
            raise Refused(f"--adversary {adversary.value}: is for --epsilon; with noise given, all are shown")
        if epsilon is None and mean_noise is not None:
            raise Refused(
                f"--mean-noise {mean_noise}: is for --epsilon; with noise given, there is no question"
            )
        plan = CentralPlan.of(
            noise_multiplier=noise_multiplier,
            epsilon=epsilon,
            adversary=None if adversary is None else adversary.value,
            rounds=rounds,
            delta=delta,
            client_rate=client_rate,
            clients=clients,
            cohort=cohort,
            sampling=None if sampling is None else sampling.value,
            max_cohort=max_cohort,
            participations=participations,
            relation=relation.value,
            mean_noise=mean_noise,
            population=population,
        )
        if as_json:
            typer.echo(json.dumps(plan.as_json()))
        else:
            plan.show(Console())


def local_dp(
    *,
    noise_multiplier: Annotated[
        float | None,
        typer.Option(
            metavar="Z",
            help="Scale of the noise on a client's update / twice the clip norm.",
            show_default=False,
        ),
    ] = None,
    epsilon: Annotated[float | None, EPSILON] = None,
    rounds: Annotated[int, ROUNDS],
    participations: Annotated[
        int | None,
        typer.Option(
            metavar="R",
            help="In how many rounds a client takes part at most. Default: all.",
            show_default=False,
        ),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(
            metavar="D",
            help="For Gaussian noise; must be below 1 / clients. Laplace's is 0.",
            show_default=False,
        ),
    ] = None,
    law: Annotated[
        LocalLaw, typer.Option(help="Gaussian noise with a clip in L2 norm, or Laplace's in L1.")
    ] = LocalLaw.GAUSSIAN,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Plan local client-level privacy: each client noises its own update, and trusts nobody, the server neither.

    Give either --noise-multiplier or --epsilon. Epsilon is composed over a client's participations; that it was
    drawn by chance does not count, for its updates show that it took part.
    """
    from fedsim.cli.budget_local_view import LocalPlan

    with exit_codes():
        exactly_one(noise_multiplier, epsilon)
        plan = LocalPlan.of(
            law=law.value,
            noise_multiplier=noise_multiplier,
            epsilon=epsilon,
            rounds=rounds,
            participations=participations,
            delta=delta,
        )
        if as_json:
            typer.echo(json.dumps(plan.as_json()))
        else:
            plan.show(Console())
