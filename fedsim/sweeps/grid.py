"""Grids: the values that settings take in a sweep, and every combination of them."""

from __future__ import annotations

import itertools
import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fedsim.errors import Refused
from fedsim.overrides import apply_overrides
from fedsim.privacy.settings import kebab

Grid = Mapping[str, tuple[str, ...]]  # values by key, as in overrides
# A value of a comma-separated list: a quoted string or a bracketed table or array counts as a whole.
_VALUE = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|\[[^\]]*\]|\{[^}]*\}|[^,"'\[{])+""")


def parse_grid(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Read `--grid`: `"key=v1,v2,..."` texts.

    >>> parse_grid(["privacy.dp-fedavg.epsilon=1,2", "data.partition=iid"])
    {'privacy.dp-fedavg.epsilon': ('1', '2'), 'data.partition': ('iid',)}

    Raises:
        Refused: A text is no such list, or a key is given twice.
    """
    grid: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        key = kebab(key.strip())
        if not equals or not key:
            raise Refused(f"--grid {text!r}: must be key=value,value,...")
        if key in grid:
            raise Refused(f"--grid {key}: is given twice")
        grid[key] = _split(key, values)
    return checked(grid)


def _split(key: str, values: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in _VALUE.findall(values))
    if values.strip() and (",".join(_VALUE.findall(values)) != values or not all(parts)):
        raise Refused(f"--grid {key}={values}: must be values, separated by commas")
    return parts


def grid_of(values: Mapping[str, Sequence[Any]], origin: str) -> dict[str, tuple[str, ...]]:
    """Return a grid of Python values; `origin` names it in errors.

    >>> grid_of({"data.partition": ["iid"], "client.steps": [1, 2]}, "grid")
    {'data.partition': ('"iid"',), 'client.steps': ('1', '2')}

    Raises:
        Refused: A key's values are no list, or one is neither number, string, boolean nor a list of these.
    """
    grid: dict[str, tuple[str, ...]] = {}
    for key, listed in values.items():
        if isinstance(listed, str) or not isinstance(listed, Sequence):
            raise Refused(f"{origin} {key} = {listed!r}: must be a list of values")
        grid[kebab(key)] = tuple(_text(origin, key, value) for value in listed)
    return checked(grid, origin)


def _text(origin: str, key: str, value: Any) -> str:
    """Return a value as TOML; JSON has the same numbers, strings and arrays."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
        tomllib.loads(f"value = {text}")
    except (TypeError, ValueError):
        allowed = "numbers, strings, booleans and lists of these"
        raise Refused(f"{origin} {key}: {value!r} can't be varied over; allowed: {allowed}") from None
    return text


def checked(grid: dict[str, tuple[str, ...]], origin: str = "--grid") -> dict[str, tuple[str, ...]]:
    """Return a grid after checking that each key has distinct values; raises `Refused`."""
    for key, values in grid.items():
        if key.partition(".")[0] == "runtime":
            raise Refused(f"{origin} {key}: [runtime] changes no result, so there is nothing to compare")
        if not values:
            raise Refused(f"{origin} {key}: is empty; one value or more are needed")
        seen: list[Any] = []
        for text in values:
            value = value_of(key, text)
            if value in seen:
                raise Refused(f"{origin} {key}: has {value!r} twice")
            seen.append(value)
    return grid


def value_of(key: str, text: str) -> Any:
    """Return the value of an override's text: TOML, else a string."""
    tree: dict[str, Any] = {}
    apply_overrides(tree, [f"{key}={text}"])
    for part in key.split("."):
        tree = tree[part]
    return tree


def size_of(grid: Grid) -> int:
    """Return a grid's number of points."""
    return math.prod(len(values) for values in grid.values())


def points_of(grid: Grid) -> Iterator[dict[str, str]]:
    """Yield every combination of a grid's values, the last key varying fastest; of an empty grid, one without keys."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))
