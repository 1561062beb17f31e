"""Applies overrides (`section.key=value`) and resolves paths in an experiment's TOML, before validation."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from fedsim import catalogue
from fedsim.errors import Refused
from fedsim.privacy.settings import kebab

# A key that names an entry, its default, and the table of the entry's options.
_NAMES = {
    "data.source": (catalogue.find_source, "digits", "data"),
    "data.partition": (catalogue.find_partition, "dirichlet", "data"),
    "task.name": (catalogue.find_task, "", "task"),
    "model.name": (catalogue.find_model, "cnn", "model"),
    "algorithm.name": (catalogue.find_algorithm, "", "algorithm"),
    "server.strategy": (catalogue.find_strategy, "fedavg", "server.options"),
    "server.schedule": (catalogue.find_round_schedule, "", "server.schedule-options"),
    "client.optimizer": (catalogue.find_optimizer, "sgd", "client.optimizer-options"),
    "client.schedule": (catalogue.find_schedule, "exponential", "client.schedule-options"),
}
_TRANSFORM = re.compile(r"(transforms\.\d+)\.name")


def apply_overrides(tree: dict[str, Any], overrides: Iterable[str]) -> None:
    """Put overrides into the tables of an experiment, in place.

    A value is read as TOML (`0.1`, `true`, `[1, 2]`), else as a string, so `iid` needs no quotes. A table of a list is
    named by its index: `transforms.0.share=0.1`. An override that names another source, partition, task, model,
    algorithm, transform, strategy, optimizer or schedule drops options of the former one that the new one lacks.

    Raises:
        Refused: An override has no `=`, is given twice, or has a key below a value that is no table, or below a list
            of tables that is none of its indices.
    """
    changes: dict[str, Any] = {}
    for override in overrides:
        _, equals, value = override.partition("=")
        key = _key(override)
        if not equals or not key:
            raise Refused(f"override {override!r}: must be section.key=value")
        if key in changes:
            raise Refused(f"override {key}: is given twice, as {changes[key]!r} and {_value(value)!r}")
        changes[key] = _value(value)
    for key, value in changes.items():
        if isinstance(value, str):
            _drop_former_options(tree, key, value)
    for key, value in changes.items():
        _put(tree, key, value)


def resolve_path(tree: dict[str, Any], folder: Path) -> None:
    """Make `data.path` absolute, in place.

    The path of `huggingface` may also be a name on the hub, so it is changed only if such a folder exists.
    """
    data = tree.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("path"), str) or not data["path"]:
        return
    path = Path(os.path.abspath(folder / Path(data["path"]).expanduser()))  # noqa: PTH100 (links stay)
    if data.get("source") != "huggingface" or path.exists():
        data["path"] = str(path)


def seen_from_here(overrides: Iterable[str], toml: str) -> list[str]:
    """Return overrides of an experiment with the path of its data as seen from the current folder, if they change it."""
    listed = list(overrides)
    if not {_key(text) for text in listed} & {"data", "data.path"}:
        return listed
    try:
        tree = tomllib.loads(toml)
        apply_overrides(tree, listed)
    except (tomllib.TOMLDecodeError, Refused):
        return listed  # refused where it is applied
    resolve_path(tree, Path.cwd())
    path = _table(tree, "data.path")
    others = [text for text in listed if _key(text) != "data.path"]
    return [*others, f"data.path={json.dumps(path)}"] if isinstance(path, str) else listed


def _key(override: str) -> str:
    return kebab(override.partition("=")[0].strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _table(tree: dict[str, Any], path: str) -> Any:
    found: Any = tree
    for part in path.split("."):
        if _is_tables(found):
            found = found[int(part)] if part in _indices(found) else None
        else:
            found = found.get(part, {}) if isinstance(found, Mapping) else None
    return found


def _drop_former_options(tree: dict[str, Any], key: str, new: str) -> None:
    """Drop what goes with the name that a key has now, and not with a new one; most keys have no name."""
    transform = _TRANSFORM.fullmatch(key)
    if key not in _NAMES and transform is None:
        return
    find, default, where = _NAMES[key] if transform is None else (catalogue.find_transform, "", transform[1])
    former = _table(tree, key) or default
    if not isinstance(former, str):
        return
    try:
        old: catalogue.Entry = find(former)
        now: catalogue.Entry = find(new)
    except Refused:
        return  # validation gives a better message
    options = catalogue.option_keys(old) - catalogue.option_keys(now)
    for path, stale in ((where, options), (key.rpartition(".")[0], old.beside - now.beside)):
        table = _table(tree, path)
        if isinstance(table, dict):
            for name in stale & set(table):
                del table[name]


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    here: Any = tree
    for depth, name in enumerate(tables):
        at = _at(here, name, key, depth)
        here = here.setdefault(at, {}) if isinstance(here, dict) else here[at]
        if not (isinstance(here, dict) or _is_tables(here)):
            raise Refused(f"override {key}: {'.'.join(tables[: depth + 1])} is a value, not a table")
    here[_at(here, last, key, len(tables))] = value


def _at(here: object, name: str, key: str, depth: int) -> Any:
    """Return what a part of a key stands for: itself in a table, an index in a list of tables."""
    if not _is_tables(here):
        return name
    if name not in _indices(here):
        path = ".".join(key.split(".")[:depth])
        raise Refused(f"override {key}: {path} has no table {name!r}; allowed: {', '.join(_indices(here))}")
    return int(name)


def _is_tables(value: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(table, dict) for table in value)


def _indices(tables: Sequence[object]) -> list[str]:
    return [str(index) for index in range(len(tables))]
