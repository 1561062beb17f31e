"""`fedsim budget dp-ftrl`: what correlated noise costs, and how much less of it a model is left with."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from fedsim.cli.budget_options import EPSILON, JSON, ROUNDS, exactly_one
from fedsim.cli.exit_codes import exit_codes
from fedsim.errors import Refused


class Strategy(StrEnum):
    """How a round's noise takes back that of rounds before."""

    SQRT_TOEPLITZ = "sqrt-toeplitz"
    BANDED = "banded"
    BLT = "blt"


def dp_ftrl(
    *,
    noise_multiplier: Annotated[
        float | None,
        typer.Option(
            metavar="Z",
            help="Standard deviation of the noise before it is correlated / (sensitivity * clip norm).",
            show_default=False,
        ),
    ] = None,
    epsilon: Annotated[float | None, EPSILON] = None,
    rounds: Annotated[int, ROUNDS],
    delta: Annotated[float, typer.Option(metavar="D", help="Must be below 1 / clients.", show_default=False)],
    mechanism: Annotated[Strategy, typer.Option(help="Of the noise.")] = Strategy.BANDED,
    bands: Annotated[
        int | None,
        typer.Option(
            metavar="B",
            help="Of banded noise, at most M: in so many rounds its parts cancel. Default: M.",
            show_default=False,
        ),
    ] = None,
    buffers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of blt noise: vectors in memory. Default: 3.", show_default=False),
    ] = None,
    min_separation: Annotated[
        int | None,
        typer.Option(
            metavar="M",
            help="Between two participations of a client: 1 allows consecutive rounds. Default: B, or 1.",
            show_default=False,
        ),
    ] = None,
    participations: Annotated[
        int | None,
        typer.Option(
            metavar="R",
            help="In how many rounds a client takes part at most. Default: as many as M leaves.",
            show_default=False,
        ),
    ] = None,
    client_rate: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Expected cohort / clients, for amplification: clients in M groups that take turns, and secret "
            "Poisson coins with rate M * P in a group.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Plan DP-FTRL: a client's epsilon, and the model's error against independent noise at the same epsilon.

    Give either --noise-multiplier or --epsilon. Epsilon rests on no sampling, but on how often and how far apart a
    client takes part, unless --client-rate says that cohorts are drawn by secret coins.
    """
    from fedsim.cli.budget_ftrl_view import View

    with exit_codes():
        exactly_one(noise_multiplier, epsilon)
        if bands is not None and mechanism is not Strategy.BANDED:
            raise Refused(f"--bands {bands}: is for --mechanism banded, not for {mechanism.value}")
        if buffers is not None and mechanism is not Strategy.BLT:
            raise Refused(f"--buffers {buffers}: is for --mechanism blt, not for {mechanism.value}")
        view = View.of(
            mechanism=mechanism.value,
            rounds=rounds,
            separation=(bands or 1) if min_separation is None else min_separation,
            participations=participations,
            bands=bands,
            buffers=buffers,
            client_rate=client_rate,
            delta=delta,
            noise_multiplier=noise_multiplier,
            epsilon=epsilon,
        )
        if as_json:
            typer.echo(json.dumps(view.as_json()))
        else:
            view.show(Console())
