"""`fedsim budget`: what a plan costs, in epsilon or in bytes and seconds, before anything runs."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsim.cli.budget_options import EPSILON, JSON, exactly_one
from fedsim.cli.exit_codes import exit_codes
from fedsim.errors import Refused

budget = typer.Typer(
    help="Plan privacy before a run: epsilon from noise, noise from epsilon; bytes and seconds of secure aggregation.",
    no_args_is_help=True,
)


class Target(StrEnum):
    """Against whom `--epsilon` is to hold."""

    KNOWN_COHORT = "known-cohort"
    RELEASED_MODELS = "released-models"


class Server(StrEnum):
    """What secure aggregation is to withstand."""

    SEMI_HONEST = "semi-honest"
    MALICIOUS = "malicious-server"


class Graph(StrEnum):
    """Who shares secrets with whom."""

    AUTO = "auto"
    COMPLETE = "complete"
    K_REGULAR = "k-regular"


@budget.command("dp-sgd")
def dp_sgd(
    *,
    noise_multiplier: Annotated[
        float | None,
        typer.Option(
            metavar="Z",
            help="Standard deviation of the noise on a batch's sum / the clip norm.",
            show_default=False,
        ),
    ] = None,
    epsilon: Annotated[float | None, EPSILON] = None,
    rate: Annotated[
        float,
        typer.Option(
            metavar="Q",
            help="Of Poisson batches: expected batch size / the client's records.",
            show_default=False,
        ),
    ],
    steps: Annotated[int, typer.Option(metavar="L", help="Local steps in a round.", show_default=False)],
    delta: Annotated[
        float, typer.Option(metavar="D", help="Must be below 1 / all records.", show_default=False)
    ],
    adversary: Annotated[
        Target | None,
        typer.Option(
            help="Against whom --epsilon is to hold. Default: known-cohort.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(metavar="T", help="Rounds.")] = 1,
    client_rate: Annotated[
        float,
        typer.Option(
            metavar="P", help="Of Poisson cohorts: expected cohort / clients; 1: all clients, always."
        ),
    ] = 1.0,
    max_participations: Annotated[
        int | None,
        typer.Option(
            metavar="R",
            help="In how many rounds a client takes part at most. Default: all.",
            show_default=False,
        ),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            metavar="B", help="A larger batch is cut to a random subset of so many.", show_default=False
        ),
    ] = None,
    records: Annotated[
        int | None,
        typer.Option(metavar="N", help="The client's records; for --max-batch.", show_default=False),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.png",
            help="Draw epsilon over rounds, noise and cohorts.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Plan DP-SGD in the clients: a record's epsilon for each adversary, without running anything.

    Give either --noise-multiplier or --epsilon. "Known cohort" is the server's view: who took part, and each
    update. "Released models" is what is left to see where cohorts are secret coins and updates stay hidden.
    With --client-rate 1 --rounds 1 it is plain DP-SGD over L steps.
    """
    from fedsim.cli.budget_view import Plan

    with exit_codes():
        exactly_one(noise_multiplier, epsilon)
        if adversary is not None and epsilon is None:
            raise Refused(f"--adversary {adversary.value}: is for --epsilon; with noise given, all are shown")
        plan = Plan.of(
            rate=rate,
            steps=steps,
            delta=delta,
            rounds=rounds,
            client_rate=client_rate,
            max_participations=max_participations,
            max_batch=max_batch,
            records=records,
            noise_multiplier=noise_multiplier,
            target=None if epsilon is None else (epsilon, (adversary or Target.KNOWN_COHORT).value),
        )
        if picture is not None:
            from fedsim.cli.budget_picture import draw

            draw(plan, picture)
        if as_json:
            typer.echo(json.dumps(plan.as_json()))
        else:
            plan.show(Console())


def secagg(
    *,
    cohort: Annotated[
        list[str],
        typer.Option(metavar="N[,N...]", help="Clients in a round; several, to compare.", show_default=False),
    ],
    parameters: Annotated[int, typer.Option(metavar="D", help="Numbers in an update.", show_default=False)],
    corrupt: Annotated[
        float,
        typer.Option(metavar="F", help="Fraction of the cohort that is on the server's side at most."),
    ] = 0.05,
    dropout: Annotated[
        float, typer.Option(metavar="F", help="Fraction of the cohort that is lost in a round at most.")
    ] = 0.05,
    adversary: Annotated[
        Server, typer.Option(help="Whether the server follows the protocol.")
    ] = Server.SEMI_HONEST,
    graph: Annotated[
        Graph, typer.Option(help="Who shares secrets with whom; auto: few neighbours where that will do.")
    ] = Graph.AUTO,
    minimum: Annotated[int, typer.Option(metavar="M", help="The smallest cohort that may be.")] = 3,
    input_bits: Annotated[int, typer.Option(metavar="P", help="Of a number in a client's update.")] = 16,
    max_weight: Annotated[int, typer.Option(metavar="W", help="The largest weight of a client.")] = 1,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Plan secure aggregation: neighbours, threshold, bytes and seconds of a round, without running one.

    Neighbours and threshold follow from what is assumed of the cohort. Bytes are exact; seconds are counted
    operations times what each takes on one core of this machine, which is measured first (about half a second).
    """
    from fedsim.cli.secagg_view import Plan

    with exit_codes():
        plan = Plan.of(
            cohorts=cohort,
            parameters=parameters,
            corrupt=corrupt,
            dropout=dropout,
            adversary=adversary.value,
            graph=graph.value,
            minimum=minimum,
            input_bits=input_bits,
            max_weight=max_weight,
        )
        if as_json:
            typer.echo(json.dumps(plan.as_json()))
        else:
            plan.show(Console())
