"""Compares two recordings: which parts of which cases differ, and by how much."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

Recorded = Mapping[str, Any]
MISSING = object()
SHOWN = 3  # differences of a part shown in full
LONGEST = 160  # characters of a value to show


@dataclass(frozen=True)
class Difference:
    """A part of a case that differs between two recordings.

    Attributes:
        case: Its name.
        part: `model`, `metrics`, `ledger`, `epsilon`, `manifest`, `terminal` or the like; `case` if the case itself
            differs.
        how: In words and numbers.
    """

    case: str
    part: str
    how: str


def differences(before: Recorded, after: Recorded) -> list[Difference]:
    """Return the differences between two recordings."""
    return list(_differences(before["cases"], after["cases"]))


def _differences(before: Recorded, after: Recorded) -> Iterator[Difference]:
    for name in {**before, **after}:
        if name not in before or name not in after:
            yield Difference(name, "case", f"only in the recording {'before' if name in before else 'after'}")
            continue
        old, new = before[name], after[name]
        if old["case-sha256"] != new["case-sha256"]:
            yield Difference(name, "case", "its files or commands are not the same")
            continue
        digests = old["digests"], new["digests"]
        for part in digests[0] | digests[1]:
            if digests[0].get(part) != digests[1].get(part):
                yield Difference(name, part, _how(part, old, new))


def table(found: list[Difference]) -> Table:
    """Return the differences, a line each."""
    made = Table("case", "part", "before -> after")
    for difference in found:
        made.add_row(Text(difference.case), Text(difference.part), Text(difference.how))
    return made


def _how(part: str, old: Recorded, new: Recorded) -> str:
    """Describe by how much a part differs, from the kept values."""
    for recorded, where in ((old, "after"), (new, "before")):
        if part not in recorded["digests"]:
            return f"only {where}"
    if part not in old["values"] or part not in new["values"]:
        return "too large for its values to be kept"
    values = old["values"][part], new["values"][part]
    if part.rpartition(": ")[2] == "model":
        return _models(*values)
    found = list(leaves(*values))
    if not found:
        return "the same values, in another order of keys"
    lines = [f"{path}: {_short(a)} -> {_short(b)}{_relative(a, b)}" for path, a, b in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append(f"and {len(found) - SHOWN} more")
    return "\n".join(lines)


def leaves(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the path, the old and the new value of each leaf that differs between two JSON values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            yield from leaves(old.get(key, MISSING), new.get(key, MISSING), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            a, b = (tree[index] if index < len(tree) else MISSING for tree in (old, new))
            yield from leaves(a, b, f"{path}[{index}]")
    elif old is MISSING or new is MISSING or type(old) is not type(new) or old != new:
        yield path, old, new


def _short(value: Any) -> str:
    if value is MISSING:
        return "nothing"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _relative(old: Any, new: Any) -> str:
    numbers = [
        value for value in (old, new) if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if len(numbers) < 2 or not old:
        return ""
    return f" (by {abs(new - old) / abs(old):.2g} of it)"


def _models(old: Recorded, new: Recorded) -> str:
    lines = []
    for name in {**old, **new}:
        if old.get(name) == new.get(name):
            continue
        if name not in old or name not in new:
            lines.append(f"{name}: only {'before' if name in old else 'after'}")
            continue
        shapes = [(tree[name]["dtype"], tree[name]["shape"]) for tree in (old, new)]
        if shapes[0] != shapes[1]:
            lines.append(f"{name}: {shapes[0]} -> {shapes[1]}")
            continue
        a, b = (
            np.frombuffer(base64.b64decode(tree[name]["base64"]), tree[name]["dtype"]).astype(np.float64)
            for tree in (old, new)
        )
        largest, norm = np.abs(b - a).max(), np.linalg.norm(a)
        lines.append(
            f"{name}: {(a != b).sum()} of {a.size} numbers, by {largest:.3g} at most, "
            f"{np.linalg.norm(b - a) / norm if norm else np.inf:.2g} of the norm"
        )
    return "\n".join(lines) or "the same tensors"
