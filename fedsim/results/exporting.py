"""`fedsim export`: a publishable folder of a run, and the epsilon that covers it.

It holds what `fedsim.results.disclosure` allows; runs that released the same models have the same bytes here.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from fedsim.errors import Refused
from fedsim.privacy.events import Relation
from fedsim.results.disclosure import (
    ADVERSARIES,
    EXPERIMENT,
    MANIFEST,
    METRICS,
    MODEL,
    PRIVATE_FILES,
    is_restricted,
    mechanisms_of,
    public_row,
    published_manifest,
)
from fedsim.results.files import drafted_folder, json_document, make_private_folder, write_whole
from fedsim.results.run import Run
from fedsim.tasks.metric import Scoring

SEEDED = "the seed is in it, and whoever has the seed has the noise: epsilon is the mechanism's, and not this folder's"
UNPROTECTED = "nothing is noised, so nothing is covered"
UNCOVERED = "no theorem covers private/, which is its owner's alone"


def export(run: Run | str | Path, out: str | Path, private: bool = False) -> Run:
    """Make a publishable folder of a run, and return it as a run.

    Its manifest names the covering epsilon under `covered-by`: adversary, unit, relation, delta.

    Args:
        run: A completed run, its directory, or a copy.
        out: The folder, which must not exist.
        private: Also copy private files, for the owner's use.

    Raises:
        Refused: There is no such completed run, there are no private files, a protected value can't be left out, or
            the folder can't be made; nothing was written.
    """
    source = run if isinstance(run, Run) else Run(run)
    _check(source, private)
    files = _public_files(source)
    secret = {name: (source.path / name).read_bytes() for name in PRIVATE_FILES} if private else {}
    _write(Path(out), files, secret)
    return Run(out)


def covered_by(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the epsilon that covers the public files of a manifest's run, with its terms, or why there is none."""
    report: Mapping[str, Any] = manifest.get("epsilon", {})
    said: dict[str, Any] = {} if is_restricted(manifest["noise"]) or not report else {"but": SEEDED}
    for adversary in reversed(ADVERSARIES):  # the weakest first
        entry = report.get(adversary, {})
        if isinstance(entry.get("epsilon"), float | int):
            terms = {key: entry[key] for key in ("epsilon", "delta", "unit", "relation") if key in entry}
            return {"adversary": adversary, "who": entry.get("who", ""), **terms, **said}
    return {"epsilon": None, "why": "no adversary has a finite epsilon" if report else UNPROTECTED, **said}


def _check(run: Run, private: bool) -> None:
    said = f"run {str(run.path)!r}"
    if run.kind != "experiment":
        raise Refused(f"{said}: is a {run.kind}; fedsim knows what may be public of an experiment alone")
    if run.status != "completed":
        raise Refused(f"{said}: is {run.status}; only a completed run can be exported")
    for name in (EXPERIMENT, METRICS, MODEL):
        if not (run.path / name).is_file():
            raise Refused(f"{said}: has no {name}")
    for name in PRIVATE_FILES if private else ():
        if not (run.path / name).is_file():
            why = "its noise is seeded, or it is a copy or an export itself"
            raise Refused(f"--private: {said} has no {name}: {why}")
    for adversary, entry in run.manifest.get("epsilon", {}).items():
        counted = entry.get("unit") == "client" and entry.get("relation") == Relation.ADD_OR_REMOVE_ONE
        if counted and is_restricted(run.manifest["noise"]):
            raise Refused(
                f"{said}: {adversary}'s relation is {entry['relation']}, which protects how many clients there are, and "
                f"{EXPERIMENT} says it; allowed: {Relation.ZERO_OUT}"
            )


def _public_files(run: Run) -> dict[str, bytes]:
    """Return a run's published files, by name."""
    mechanisms, manifest = mechanisms_of(run.path), run.manifest
    rows = [public_row(row, mechanisms, Scoring.of(manifest)) for row in run.rows]
    tree = published_manifest(manifest, mechanisms) | {"covered-by": covered_by(manifest)}
    experiment = tomllib.loads((run.path / EXPERIMENT).read_text(encoding="utf-8"))
    experiment.pop("runtime", None)  # it changes no result
    return {
        EXPERIMENT: tomli_w.dumps(experiment).encode(),
        MANIFEST: json_document(tree),
        METRICS: b"".join(json.dumps(row).encode() + b"\n" for row in rows),
        MODEL: (run.path / MODEL).read_bytes(),
    }


def _write(out: Path, files: Mapping[str, bytes], secret: Mapping[str, bytes]) -> None:
    if out.exists() or out.is_symlink():
        raise Refused(f"export {str(out)!r}: exists; a new folder is needed")
    with drafted_folder(out, "export") as draft:
        for name, content in files.items():
            write_whole(draft / name, content)
        for name, content in secret.items():
            make_private_folder((draft / name).parent)
            write_whole(draft / name, content, private=True)
