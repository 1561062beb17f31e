"""The documentation's table of what a run discloses, generated from `fedsim.results.disclosure`.

`python -m fedsim.results.disclosure_table` writes it into the README.md of the current folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedsim.privacy.mechanism import Cover, Kind
from fedsim.results.disclosure import COVERS, ITEMS, PRIVATE

BEGIN, END = "<!-- disclosure: begin -->", "<!-- disclosure: end -->"
HEAD = ("mechanism", "adversary", "may be given", "which is in", "theorem")


def table() -> str:
    """Return, as Markdown, what each adversary may see, where it is written, and by which theorem."""
    rows = [HEAD, ("---",) * len(HEAD), *map(_row, COVERS)]
    rows.append(("each", "nobody but its owner", Kind.REST.name.lower(), _places((Kind.REST,)), "none"))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *map(_legend, Kind)])


def documented(text: str, made: Callable[[], str] = table) -> str:
    """Return a document with the table between its marks replaced; raises `ValueError` if it has no marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document needs the lines {BEGIN} and {END}")
    return f"{before}{begin}\n{made()}\n{end}{after}"


def _row(cover: Cover) -> tuple[str, ...]:
    given = ", ".join(kind.name.lower() for kind in cover.kinds) or "nothing"
    places = _places(cover.kinds)
    if cover.kinds == (Kind.PLAN,):  # secure aggregation has no epsilon, only its entry
        places = "`secure-aggregation` in `manifest.json`"
    return f"`{cover.mechanism}`", f"`{cover.adversary}`", given, places, cover.theorem


def _places(kinds: tuple[Kind, ...]) -> str:
    """Return the places of kinds; all public files are one place."""
    files = dict.fromkeys(item.file for item in ITEMS if item.kind in kinds)
    private = [f"`{file}`" for file in files if file.startswith(f"{PRIVATE}/")]
    public = ["the public files"] if len(private) < len(files) else []
    return ", ".join([*public, *private]) or "nothing"


def _legend(kind: Kind) -> str:
    """Return a line on a kind: its inputs, its files and its keys."""
    places: dict[str, list[str]] = {}
    for item in ITEMS:
        if item.kind is kind:
            places.setdefault(item.file, []).extend(f"`{key}`" for key in item.keys if key != "*")
    said = [f"`{file}`" + (f" ({', '.join(keys)})" if keys else "") for file, keys in places.items()]
    return f"- *{kind.name.lower()}*: {kind.value}. In {'; '.join(said)}"


if __name__ == "__main__":
    readme = Path("README.md")
    readme.write_text(documented(readme.read_text(encoding="utf-8")), encoding="utf-8")
