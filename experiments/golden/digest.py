"""Recorded parts of a case, each a JSON value that must not change.

Times, identities and descriptions of the machine are left out; everything else that a run writes is included.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from fedsim.experiments.golden.case import Case

LARGEST = 64 * 1024  # bytes of a part to keep beside its digest, for describing differences
# Keys that differ between runs or sessions.
TIMES = ("seconds",)
TIME = re.compile(r"\b\d+(\.\d+)? (h|min|s|ms)\b( \d+ (min|s)\b)*")  # 0.3 s; 1 min 20 s
SESSION = ("run-id", "commit", "versions", "host", "started", "wall-seconds")


def sha256(value: Any) -> str:
    """Return the hash of a JSON value; the order of keys counts, as it does in a file."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def parts(case: Case, folder: Path, code: str, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the parts of a case performed in a folder, with the code in `code`."""
    found: dict[str, Any] = {}
    names = {str(folder): "HERE", code: "CODE"}
    for name in case.runs:
        run = folder / name
        if (run / "manifest.json").is_file():
            of_run = seeded_parts(run) if case.seeded else public_parts(run)
            if str(folder) in (run / "experiment.toml").read_text():  # in a path to data
                names[of_run["experiment-sha256"]] = "the hash of an experiment that names HERE"
            prefix = "" if len(case.runs) == 1 else f"{name}: "
            found |= {prefix + part: plain(value, names) for part, value in of_run.items()}
    if case.seeded:
        found["terminal"] = plain([dict(answer) for answer in answers], names)
    else:  # the output depends on the operating system's randomness
        found["terminal"] = [answer["exit"] for answer in answers]
    return found


def record(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return digests of parts, and the values of small ones."""
    values = {name: value for name, value in found.items() if len(json.dumps(value)) <= LARGEST}
    return {"digests": {name: sha256(value) for name, value in found.items()}, "values": values}


def seeded_parts(run: Path) -> dict[str, Any]:
    """Return the parts of a run with seeded noise: everything written."""
    manifest = json.loads((run / "manifest.json").read_text())
    rows = _rows(run / "metrics.jsonl")
    found: dict[str, Any] = {
        "files": sorted(file for file in _files(run) if not file.startswith("checkpoint/")),
        "experiment": (run / "experiment.toml").read_text().splitlines(),
        "experiment-sha256": manifest.get("experiment-sha256"),
        "manifest": _without(manifest, SESSION),
        "metrics": [_without(row, TIMES) for row in rows],
        "epsilon": _epsilons(manifest, rows),
    }
    if (run / "ledger.jsonl").is_file():
        found["ledger"] = (run / "ledger.jsonl").read_text().splitlines()
    if (run / "model.safetensors").is_file():
        found["model"] = _tensors(run / "model.safetensors")
    return found


def public_parts(run: Path) -> dict[str, Any]:
    """Return the non-random parts of a run with the operating system's noise.

    These are the names of files and columns, the rounds, each round's number of ledger events, and epsilon if it
    follows from the plan.
    """
    manifest = json.loads((run / "manifest.json").read_text())
    rows = _rows(run / "metrics.jsonl")
    found: dict[str, Any] = {
        "files": _files(run),
        "experiment-sha256": manifest.get("experiment-sha256"),
        "manifest": _without(manifest, (*SESSION, "final", "data-sha256")),
        "columns": [[row.get("round"), list(row)] for row in rows],
        "epsilon": _epsilons(manifest, rows),
        "tensors": {name: [tensor["dtype"], tensor["shape"]] for name, tensor in _model(run).items()},
    }
    private = run / "private"
    if (private / "metrics.jsonl").is_file():
        found["private columns"] = [[row.get("round"), list(row)] for row in _rows(private / "metrics.jsonl")]
    if (private / "ledger.jsonl").is_file():
        events = [(event["mechanism"], event["round"]) for event in _rows(private / "ledger.jsonl")]
        found["ledger"] = [[*event, events.count(event)] for event in sorted(set(events))]
    return found


def plain(value: Any, names: Mapping[str, str]) -> Any:
    """Return a value with names in place of varying texts, and without times and numbers of processes."""
    if isinstance(value, str):
        for text, name in names.items():
            value = value.replace(text, name)
        return re.sub(r"\bprocess \d+", "process #", TIME.sub("# s", value))
    if isinstance(value, Mapping):
        return {key: plain(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner, names) for inner in value]
    return value


def _without(tree: Any, keys: Iterable[str]) -> Any:
    """Return a tree without some keys, at any depth."""
    if isinstance(tree, Mapping):
        return {key: _without(value, keys) for key, value in tree.items() if key not in keys}
    if isinstance(tree, list):
        return [_without(value, keys) for value in tree]
    return tree


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _files(run: Path) -> list[str]:
    found = (path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith("."))


def _epsilons(manifest: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    last = rows[-1] if rows else {}
    return {
        "manifest": manifest.get("epsilon"),
        "last row": {key: value for key, value in last.items() if key.startswith("epsilon")},
    }


def _model(run: Path) -> dict[str, Any]:
    file = run / "model.safetensors"
    return _tensors(file) if file.is_file() else {}


def _tensors(file: Path) -> dict[str, Any]:
    found: dict[str, np.ndarray[Any, Any]] = load_file(file)
    return {
        name: {
            "dtype": str(tensor.dtype),
            "shape": list(tensor.shape),
            "base64": base64.b64encode(np.ascontiguousarray(tensor).tobytes()).decode(),
        }
        for name, tensor in sorted(found.items())
    }
