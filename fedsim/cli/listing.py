"""Lists the catalogue, as tables or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from fedsim import catalogue
from fedsim.catalogue import OPTIMIZERS, SCHEDULES
from fedsim.privacy.settings import kebab


def _options(entry: catalogue.Entry) -> dict[str, dict[str, Any]]:
    return {
        kebab(name): {"description": field.description or "", "required": field.is_required()}
        | ({} if field.is_required() else {"default": field.get_default(call_default_factory=True)})
        for name, field in entry.options.model_fields.items()
    }


def _plain(entry: catalogue.Entry) -> dict[str, Any]:
    return {"name": entry.name, "summary": entry.summary, "options": _options(entry)}


def _shown(value: Any) -> str:
    return "unset" if value is None else json.dumps(value)


def _table(title: str, entries: Iterable[catalogue.Entry], traits: Mapping[str, str] | None = None) -> Table:
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
    for entry in entries:
        options = [
            f"{key} ({'required' if option['required'] else _shown(option['default'])})"
            for key, option in _options(entry).items()
        ]
        summary = entry.summary + (
            f" [dim]{traits[entry.name]}[/dim]" if traits and traits.get(entry.name) else ""
        )
        table.add_row(entry.name, summary, "\n".join(options))
    return table


def show_sources(console: Console, as_json: bool) -> None:
    """List sources and partitions; the options of both are in `[data]`."""
    if as_json:
        tree = {
            "sources": [_plain(entry) for entry in catalogue.SOURCES.values()],
            "partitions": [_plain(entry) for entry in catalogue.PARTITIONS.values()],
        }
        print(json.dumps(tree))
        return
    users = {name: "(has users)" for name, entry in catalogue.SOURCES.items() if entry.has_users}
    console.print(_table("Sources: \\[data] source = ...", catalogue.SOURCES.values(), users))
    console.print()
    needs = {name: "(needs labels)" for name, entry in catalogue.PARTITIONS.items() if entry.by_label}
    needs |= {name: "(needs users)" for name, entry in catalogue.PARTITIONS.items() if entry.by_user}
    console.print(_table("Partitions: \\[data] partition = ...", catalogue.PARTITIONS.values(), needs))
    console.print(
        "\nThe options of both stand in \\[data]. `fedsim data CONFIG.toml` shows an experiment's partition."
    )


def show_tasks(console: Console, as_json: bool) -> None:
    """List the tasks; their options are in `[task]`."""
    if as_json:
        print(json.dumps([_plain(entry) for entry in catalogue.TASKS.values()]))
        return
    console.print(_table("Tasks: \\[task] name = ...", catalogue.TASKS.values()))
    console.print(
        "\nWithout \\[task] the source decides. The options stand in \\[task]. Your own: name = "
        '"my_package.my_module:Task",\ncalled as Task(data, **options), with data a fedsim.data.DataSpec; see '
        "fedsim.tasks.Task."
    )


def show_models(console: Console, as_json: bool) -> None:
    """List the models; their options are in `[model]`."""
    if as_json:
        print(json.dumps([_plain(e) | {"kinds": sorted(e.kinds)} for e in catalogue.MODELS.values()]))
        return
    kinds = {name: f"(for {', '.join(sorted(entry.kinds))})" for name, entry in catalogue.MODELS.items()}
    console.print(_table("Models: \\[model] name = ...", catalogue.MODELS.values(), kinds))
    console.print(
        '\nThe options stand in \\[model]. Your own: name = "my_package.my_module:build", called as build(task, **options),'
        "\nwith task a fedsim.tasks.Task (task.inputs.shape, task.outputs.size); it returns a torch.nn.Module."
    )


def show_algorithms(console: Console, as_json: bool) -> None:
    """List the algorithms, whose options stand in `[algorithm]`."""
    if as_json:
        print(json.dumps([_plain(e) | {"fields": e.fields} for e in catalogue.ALGORITHMS.values()]))
        return
    fields = {name: "(needs a linear strategy)" for name, e in catalogue.ALGORITHMS.items() if e.fields}
    console.print(_table("Algorithms: \\[algorithm] name = ...", catalogue.ALGORITHMS.values(), fields))
    console.print(
        "\nWithout \\[algorithm] it is fedavg. The options stand in \\[algorithm]. Your own: name = "
        '"my_package.my_module:Mine",\ncalled as Mine(**options); see fedsim.algorithms.Algorithm. What the server makes of '
        "the model is the strategy's: `fedsim strategies`."
    )


def show_strategies(console: Console, as_json: bool) -> None:
    """List the strategies; their options are in `[server.options]`."""
    if as_json:
        print(json.dumps([_plain(e) | {"linear": e.linear} for e in catalogue.STRATEGIES.values()]))
        return
    traits = {
        name: "" if entry.linear else "(sees each update)" for name, entry in catalogue.STRATEGIES.items()
    }
    console.print(_table("Strategies: \\[server] strategy = ...", catalogue.STRATEGIES.values(), traits))
    console.print(
        '\nThe options stand in \\[server.options]. Your own: strategy = "my_package.my_module:build", called as'
        "\nbuild(**options); it returns a flwr.serverapp.strategy.Strategy and sees each update.\n"
    )
    console.print(_table("Schedules: \\[server] schedule = ...", catalogue.ROUND_SCHEDULES.values()))
    console.print(
        "\nUnset: synchronous rounds. The options stand in \\[server.schedule-options]. Your own: schedule ="
        '\n"my_package.my_module:Mine"; see fedsim.server.schedules.Schedule.'
    )


def show_optimizers(console: Console, as_json: bool) -> None:
    """List the clients' optimizers and learning-rate schedules."""
    if as_json:
        tree = {
            "optimizers": [_plain(entry) | {"keys": sorted(entry.beside)} for entry in OPTIMIZERS.values()],
            "schedules": [_plain(entry) | {"keys": sorted(entry.beside)} for entry in SCHEDULES.values()],
        }
        print(json.dumps(tree))
        return
    console.print(_table("Optimizers: \\[client] optimizer = ...", OPTIMIZERS.values()))
    console.print(
        '\nThe options stand in \\[client.optimizer-options]. Your own: optimizer = "my_package.my_module:Mine",'
        "\ncalled as Mine(parameters, lr=rate, **options) for each local training; it returns an object with"
        '\nzero_grad() and step(), as every torch.optim.Optimizer is: "torch.optim:Adagrad".\n'
    )
    console.print(_table("Schedules: \\[client] schedule = ...", SCHEDULES.values()))
    console.print(
        '\nThe options stand in \\[client.schedule-options]. Your own: schedule = "my_package.my_module:mine",'
        "\ncalled as mine(round, rounds, **options); it returns the factor on client.learning-rate. With every"
        "\nschedule: client.warmup-rounds, over which the rate rises linearly before the schedule begins."
    )
