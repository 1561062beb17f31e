"""Points of a sweep: the values that settings take, of grids and of random searches, and their combinations."""

from __future__ import annotations

import itertools
import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedsim.errors import Refused
from fedsim.overrides import apply_overrides
from fedsim.privacy.settings import kebab
from fedsim.streams import numpy_stream

Grid = Mapping[str, tuple[str, ...]]  # values by key, as in overrides
# A value of a comma-separated list: a quoted string or a bracketed table or array counts as a whole.
_VALUE = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|\[[^\]]*\]|\{[^}]*\}|[^,"'\[{])+""")
DIGITS = 4  # significant digits of a drawn value
_NUMBER = r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})(:log)?")


def _keys(option: str, texts: Iterable[str], form: str) -> Iterator[tuple[str, str]]:
    """Yield the key and the rest of each `"key=..."`; raises `Refused` if a key is missing or given twice."""
    seen = set()
    for text in texts:
        key, equals, said = text.partition("=")
        key = kebab(key.strip())
        if not equals or not key:
            raise Refused(f"{option} {text!r}: must be {form}")
        if key in seen:
            raise Refused(f"{option} {key}: is given twice")
        seen.add(key)
        yield key, said


def parse_grid(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Read `--grid`: `"key=v1,v2,..."` texts.

    >>> parse_grid(["privacy.dp-fedavg.epsilon=1,2", "data.partition=iid"])
    {'privacy.dp-fedavg.epsilon': ('1', '2'), 'data.partition': ('iid',)}

    Raises:
        Refused: A text is no such list, or a key is given twice.
    """
    given = _keys("--grid", texts, "key=value,value,...")
    return checked({key: _split(key, values) for key, values in given})


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


# --- random search ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """A random search.

    Attributes:
        count: Number of points to draw, at least 1.
        ranges: By key, `"low:high"` or `"low:high:log"`.
    """

    count: int
    ranges: Mapping[str, str]

    @classmethod
    def of(cls, count: int | None, texts: Iterable[str]) -> Search | None:
        """Return the search of `--search` and `--range`, None without them; raises `Refused`."""
        ranges = parse_ranges(texts)
        if count is None and not ranges:
            return None
        if count is None or not ranges:
            raise Refused("--search and --range: go together")
        if count < 1:
            raise Refused(f"--search {count}: must be at least 1")
        return cls(count, ranges)

    def points(self) -> list[dict[str, str]]:
        """Return the points, a value for each key, as in an override.

        Values are drawn uniformly or log-uniformly; between integer ends, integers including both. Points are
        distinct, so small ranges have fewer.
        """
        generator = numpy_stream(0, "sweep-search")
        drawn = [
            {key: _drawn(key, said, generator) for key, said in self.ranges.items()}
            for _ in range(self.count)
        ]
        return [point for place, point in enumerate(drawn) if point not in drawn[:place]]


def parse_ranges(texts: Iterable[str]) -> dict[str, str]:
    """Read `--range`: `"key=low:high"` texts, with `":log"` for log-uniform values.

    >>> parse_ranges(["client.learning-rate=0.01:1:log"])
    {'client.learning-rate': '0.01:1:log'}

    Raises:
        Refused: A text is no range, or a key is given twice.
    """
    ranges: dict[str, str] = {}
    for key, said in _keys("--range", texts, "key=low:high or key=low:high:log"):
        if key.partition(".")[0] in ("runtime", "seed"):
            raise Refused(f"--range {key}: is nothing to search over; --seeds repeats a point")
        ranges[key] = said.strip()
        _ends(key, ranges[key])
    return ranges


def _ends(key: str, said: str) -> tuple[float, float, bool, bool]:
    """Return low, high, whether values are log-uniform, and whether they are integers."""
    match = _RANGE.fullmatch(said)
    try:
        low, high = (float(end) for end in match.groups()[:2]) if match else (math.nan, math.nan)
    except ValueError:
        low = high = math.nan
    if match is None or not low < high or math.isinf(high - low):
        raise Refused(f"--range {key}={said}: must be low:high or low:high:log, with low below high")
    if match[3] and low <= 0:
        raise Refused(f"--range {key}={said}: must begin above 0 with log")
    return low, high, bool(match[3]), all(end.lstrip("+-").isdigit() for end in match.groups()[:2])


def _drawn(key: str, said: str, generator: np.random.Generator) -> str:
    low, high, by_factors, whole = _ends(key, said)
    where = generator.random()
    if whole:
        low, high = low - 0.5, high + 0.5
    value = low * (high / low) ** where if by_factors else low + (high - low) * where
    if whole:
        return str(min(max(round(value), math.ceil(low)), math.floor(high)))
    return repr(min(max(float(f"{value:.{DIGITS}g}"), low), high))
