"""Lists the catalogue, as tables or JSON: `fedsim data`, `tasks`, `models` and so on; and the schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from fedsim.cli.shared import JSON, SET, exit_codes
from fedsim.errors import Refused
from fedsim.references import see_folders

if TYPE_CHECKING:
    from fedsim.catalogue import Entry, PartitionEntry

E = TypeVar("E", bound="Entry")
CONFIG = typer.Argument(metavar="[CONFIG.toml]", help="Show this experiment's partition.")
PICTURE = typer.Option(metavar="FILE.png", help="Draw examples and labels of each client.")


def data(
    config: Annotated[Path | None, CONFIG] = None,
    overrides: Annotated[list[str] | None, SET] = None,
    picture: Annotated[Path | None, PICTURE] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List the sources and partitions, or show an experiment's partition."""
    with exit_codes():
        if config is None:
            if picture is not None or overrides:
                raise Refused("--picture and --set: show an experiment's data; a CONFIG.toml is needed")
            _list_data(as_json)
            return
        from fedsim.cli.partition_view import View
        from fedsim.data import prepare
        from fedsim.experiment import Experiment

        see_folders([Path.cwd(), config.absolute().parent])  # for "module:callable"
        experiment = Experiment.load(config, overrides or [])
        view = View(experiment, prepare(experiment))
        if as_json:
            typer.echo(json.dumps(view.as_json()))
        else:
            view.show(Console())
        if picture is not None:
            view.draw(picture)


def _list_data(as_json: bool) -> None:
    from fedsim.catalogue import PARTITIONS, SOURCES

    if as_json:
        print(json.dumps({"sources": _tree(SOURCES), "partitions": _tree(PARTITIONS)}))
        return
    _show("Sources: \\[data] source = ...", SOURCES, "", lambda e: "(has users)" if e.has_users else "")
    _show(
        "Partitions: \\[data] partition = ...",
        PARTITIONS,
        "\nThe options of both stand in \\[data]. `fedsim data CONFIG.toml` shows an experiment's partition.",
        _needs,
    )


def _needs(partition: PartitionEntry) -> str:
    if partition.by_user:
        return "(needs users)"
    return "(needs labels)" if partition.by_label else ""


def tasks(as_json: Annotated[bool, JSON] = False) -> None:
    """List the tasks and their options."""
    from fedsim.catalogue import TASKS

    _list(
        as_json,
        "Tasks: \\[task] name = ...",
        TASKS,
        "\nWithout \\[task] the source decides. The options stand in \\[task]. Your own: name = "
        '"my_package.my_module:Task",\ncalled as Task(data, **options), with data a fedsim.data.DataSpec; see '
        "fedsim.tasks.Task.",
    )


def models(as_json: Annotated[bool, JSON] = False) -> None:
    """List the models and their options."""
    from fedsim.catalogue import MODELS

    _list(
        as_json,
        "Models: \\[model] name = ...",
        MODELS,
        '\nThe options stand in \\[model]. Your own: name = "my_package.my_module:build", called as build(task, **options),'
        "\nwith task a fedsim.tasks.Task (task.inputs.shape, task.outputs.size); it returns a torch.nn.Module.",
        lambda e: f"(for {', '.join(sorted(e.kinds))})",
        lambda e: {"kinds": sorted(e.kinds)},
    )


def algorithms(as_json: Annotated[bool, JSON] = False) -> None:
    """List the algorithms and their options."""
    from fedsim.catalogue import ALGORITHMS

    _list(
        as_json,
        "Algorithms: \\[algorithm] name = ...",
        ALGORITHMS,
        "\nWithout \\[algorithm] it is fedavg. The options stand in \\[algorithm]. Your own: name = "
        '"my_package.my_module:Mine",\ncalled as Mine(**options); see fedsim.algorithms.Algorithm. What the server makes of '
        "the model is the strategy's: `fedsim strategies`.",
        lambda e: "(needs a linear strategy)" if e.fields else "",
        lambda e: {"fields": e.fields},
    )


def transforms(as_json: Annotated[bool, JSON] = False) -> None:
    """List the transforms of clients' updates and their options."""
    from fedsim.catalogue import TRANSFORMS

    _list(
        as_json,
        "Transforms: \\[\\[transforms]] name = ...",
        TRANSFORMS,
        "\nEach \\[\\[transforms]] is applied to a client's update after its training, in their order; its options"
        '\nstand beside its name. Your own: name = "my_package.my_module:Mine", called as Mine(**options); it returns'
        "\nan object with apply(update, draws): see fedsim.transforms.Transform.",
    )


def strategies(as_json: Annotated[bool, JSON] = False) -> None:
    """List the strategies and their options."""
    from fedsim.catalogue import ROUND_SCHEDULES, STRATEGIES

    _list(
        as_json,
        "Strategies: \\[server] strategy = ...",
        STRATEGIES,
        '\nThe options stand in \\[server.options]. Your own: strategy = "my_package.my_module:build", called as'
        "\nbuild(**options); it returns a flwr.serverapp.strategy.Strategy and sees each update.\n",
        lambda e: "" if e.linear else "(sees each update)",
        lambda e: {"linear": e.linear},
    )
    if not as_json:
        _show(
            "Schedules: \\[server] schedule = ...",
            ROUND_SCHEDULES,
            "\nUnset: synchronous rounds. The options stand in \\[server.schedule-options]. Your own: schedule ="
            '\n"my_package.my_module:Mine"; see fedsim.server.schedules.Schedule.',
        )


def optimizers(as_json: Annotated[bool, JSON] = False) -> None:
    """List the clients' optimizers and learning-rate schedules, and their options."""
    from fedsim.catalogue import OPTIMIZERS, SCHEDULES

    if as_json:
        tree = {
            "optimizers": _tree(OPTIMIZERS, lambda e: {"keys": sorted(e.beside)}),
            "schedules": _tree(SCHEDULES, lambda e: {"keys": sorted(e.beside)}),
        }
        print(json.dumps(tree))
        return
    _show(
        "Optimizers: \\[client] optimizer = ...",
        OPTIMIZERS,
        '\nThe options stand in \\[client.optimizer-options]. Your own: optimizer = "my_package.my_module:Mine",'
        "\ncalled as Mine(parameters, lr=rate, **options) for each local training; it returns an object with"
        '\nzero_grad() and step(), as every torch.optim.Optimizer is: "torch.optim:Adagrad".\n',
    )
    _show(
        "Schedules: \\[client] schedule = ...",
        SCHEDULES,
        '\nThe options stand in \\[client.schedule-options]. Your own: schedule = "my_package.my_module:mine",'
        "\ncalled as mine(round, rounds, **options); it returns the factor on client.learning-rate. With every"
        "\nschedule: client.warmup-rounds, over which the rate rises linearly before the schedule begins.",
    )


def schema() -> None:
    """Print the JSON schema of experiment files, for editors.

    Save it, and begin an experiment file with `#:schema ./fedsim.schema.json` to have an editor complete and
    check it.
    """
    from fedsim.schema import schema as tree

    typer.echo(json.dumps(tree(), indent=2))


COMMANDS = (data, tasks, models, algorithms, transforms, strategies, optimizers, schema)


def _list(
    as_json: bool,
    title: str,
    entries: Mapping[str, E],
    note: str,
    trait: Callable[[E], str] = lambda _: "",
    more: Callable[[E], Mapping[str, Any]] = lambda _: {},
) -> None:
    if as_json:
        print(json.dumps(_tree(entries, more)))
    else:
        _show(title, entries, note, trait)


def _options(entry: Entry) -> dict[str, dict[str, Any]]:
    from fedsim.privacy.settings import kebab

    return {
        kebab(name): {"description": field.description or "", "required": field.is_required()}
        | ({} if field.is_required() else {"default": field.get_default(call_default_factory=True)})
        for name, field in entry.options.model_fields.items()
    }


def _tree(entries: Mapping[str, E], more: Callable[[E], Mapping[str, Any]] = lambda _: {}) -> list[Any]:
    """Return entries for JSON, each with more traits."""
    return [
        {"name": entry.name, "summary": entry.summary, "options": _options(entry), **more(entry)}
        for entry in entries.values()
    ]


def _show(title: str, entries: Mapping[str, E], note: str, trait: Callable[[E], str] = lambda _: "") -> None:
    """Print a table of entries, each with a trait in words, and a note below it."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    table.add_column("name", style="bold cyan", no_wrap=True)
    table.add_column("what it is", ratio=3)
    table.add_column("options (default)", ratio=3)
    for entry in entries.values():
        options = [
            f"{key} ({'required' if option['required'] else _shown(option['default'])})"
            for key, option in _options(entry).items()
        ]
        said = trait(entry)
        table.add_row(entry.name, entry.summary + (f" [dim]{said}[/dim]" if said else ""), "\n".join(options))
    console = Console()
    console.print(table)
    console.print(note)


def _shown(value: Any) -> str:
    return "unset" if value is None else json.dumps(value)
