"""Runs on a server: `fedsim run --on` and `resume --on`, `follow`, `stop` and `up`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedsim.cli.shared import INSECURE, JSON, KEYS, ON, QUIET, SET, exit_codes
from fedsim.errors import Refused
from fedsim.references import see_folders

if TYPE_CHECKING:
    from fedsim.deployment.operator.remote import Remote
    from fedsim.deployment.operator.submit import Submitted

COPY = typer.Option(metavar="DIR", help="The copy of the run. Default: runs/NAME.")
NAME = typer.Argument(metavar="NAME", help="The run's name, as printed by `fedsim run --on`.")
NOW = typer.Option("--now", help="End it at once, in the middle of a round.")
CONFIG = typer.Argument(metavar="CONFIG.toml", help="The experiment file.")
CLIENTS = typer.Option(metavar="N", min=1, help="How many; sets data.clients. Default: data.clients.")
OUT = typer.Option(metavar="DIR", help="The run directory, which must not exist. Default: runs/NAME.")
KEEP = typer.Option(metavar="DIR", help="Keep keys, states and logs in this new folder.")


@dataclass(frozen=True)
class ServerOptions:
    """The options of the server's address and keys, and of the command's output."""

    address: str | None
    keys: Path | None
    insecure: bool
    silent: bool
    as_json: bool

    @contextmanager
    def connect(self) -> Iterator[Remote]:
        """Connect to the server; raises `Refused`."""
        from fedsim.deployment.operator.remote import Remote

        if self.address is None:
            raise Refused("--on: must be HOST:PORT, as in 127.0.0.1:9091")
        with Remote.connect(self.address, self.keys, insecure=self.insecure) as remote:
            yield remote

    def check(self, for_servers: Mapping[str, object], for_engines: Mapping[str, object]) -> None:
        """Refuse options for a server without --on, and options for engines with it.

        Both are options of the command with their values, beside --keys and --insecure.
        """
        if self.address is None:
            needing = {"keys": self.keys, "insecure": self.insecure, **for_servers}
            why = "is for a run on a server; --on HOST:PORT says which"
        else:
            needing, why = dict(for_engines), "is for a simulation, and can't stand beside --on"
        for option, given in needing.items():
            if given not in (None, False):
                raise Refused(f"--{option}: {why}")

    def follow(self, run: Submitted, out: Path | None, name: str, done: int | None) -> None:
        """Follow a run to its end, and print the result."""
        from fedsim.cli.display import following, tell
        from fedsim.deployment.operator.follow import follow

        console, copy = Console(), out or Path("runs") / run.name
        with following(console, self.silent, name) as progress:
            finished = follow(run, copy, progress, _teller(console, self.silent), done)
        tell(finished, self.silent, self.as_json)


def _teller(console: Console, silent: bool) -> Callable[[str], None]:
    """Return a function that prints a line beside the progress: on stderr if stdout is kept clean."""
    if silent:
        return partial(typer.echo, err=True)
    return partial(console.print, highlight=False, markup=False, soft_wrap=True)


def run_on(source: Path, overrides: list[str], where: ServerOptions, out: Path | None, detach: bool) -> None:
    """Start an experiment on a server, and follow it."""
    from fedsim.deployment.operator.submit import experiment_for, submit
    from fedsim.results.directory import check_free

    if out is not None:
        if detach:
            raise Refused("--out: is for the copy, which --detach makes none of; `fedsim follow` does")
        check_free(out)
    with where.connect() as remote:
        experiment = experiment_for(source, overrides, loopback=remote.address.is_loopback)
        run = submit(remote, experiment, where.keys)
        if not detach:
            where.follow(run, out, experiment.name, 0)
        elif where.as_json:
            typer.echo(json.dumps(run.deployment))
        elif not where.silent:
            typer.echo(f"{run.name}: started\n{run.command('follow')}\n{run.command('stop')}")


def resume_on(path: Path, where: ServerOptions) -> None:
    """Go on with a run on a server; `path` is its copy, or its name."""
    from fedsim.deployment.operator.run_copy import deployment_of
    from fedsim.deployment.operator.submit import resume

    name = str(deployment_of(path).get("run", path))
    with where.connect() as remote:
        run = resume(remote, name, where.keys)
        where.follow(run, path if path.is_dir() else None, name, None)


def follow(
    name: Annotated[str, NAME],
    on: Annotated[str, ON],
    keys: Annotated[Path | None, KEYS] = None,
    insecure: Annotated[bool, INSECURE] = False,
    out: Annotated[Path | None, COPY] = None,
    quiet: Annotated[bool, QUIET] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Follow a run on a server, and copy its run directory.

    Ctrl-C stops following; the run continues.
    """
    where = ServerOptions(on, keys, insecure, quiet or as_json, as_json)
    with exit_codes(), where.connect() as remote:
        from fedsim.deployment.operator.submit import find

        where.follow(find(remote, name, keys), out, name, None)


def stop(
    name: Annotated[str, NAME],
    on: Annotated[str, ON],
    keys: Annotated[Path | None, KEYS] = None,
    insecure: Annotated[bool, INSECURE] = False,
    now: Annotated[bool, NOW] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """End a run on a server after the current round; `fedsim resume --on` resumes it."""
    where = ServerOptions(on, keys, insecure, quiet, False)
    with exit_codes(), where.connect() as remote:
        from fedsim.deployment.operator.submit import find
        from fedsim.deployment.operator.submit import stop as end

        said = end(find(remote, name, keys), now=now)
        if not quiet:
            typer.echo(said)


def up(
    config: Annotated[Path, CONFIG],
    clients: Annotated[int | None, CLIENTS] = None,
    overrides: Annotated[list[str] | None, SET] = None,
    out: Annotated[Path | None, OUT] = None,
    keep: Annotated[Path | None, KEEP] = None,
    quiet: Annotated[bool, QUIET] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Run an experiment by a server and clients that are processes of this machine.

    They are started for it, with keys of their own and TLS between them, and all ended with it.
    """
    with exit_codes():
        see_folders([Path.cwd(), config.absolute().parent])
        from fedsim.cli.display import following, tell
        from fedsim.deployment import local
        from fedsim.deployment.operator.submit import experiment_for

        changes = [*(overrides or []), *([] if clients is None else [f"data.clients={clients}"])]
        experiment = experiment_for(config, changes, loopback=True)
        console, silent = Console(), quiet or as_json
        teller = (lambda line: None) if silent else _teller(console, silent)  # errors are printed at the end
        with following(console, silent, experiment.name) as progress:
            done = local.up(experiment, out, keep, progress, teller)
        tell(done, silent, as_json)
