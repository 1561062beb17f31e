"""Random search: values drawn from ranges, reproducibly."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fedsim.errors import Refused
from fedsim.privacy.settings import kebab
from fedsim.streams import numpy_stream

DIGITS = 4  # significant digits of a drawn value
_NUMBER = r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})(:log)?")


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
    for text in texts:
        key, equals, said = text.partition("=")
        key = kebab(key.strip())
        if not equals or not key:
            raise Refused(f"--range {text!r}: must be key=low:high or key=low:high:log")
        if key in ranges:
            raise Refused(f"--range {key}: is given twice")
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
