"""Contents of a manifest: what ran, with which versions, where."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
import tomllib
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.results.files import check_types, read_object, unless_damaged
from fedsim.tasks.build import scoring_of
from fedsim.tasks.metric import Scoring
from fedsim.threads import cores

if TYPE_CHECKING:
    from fedsim.experiment import Experiment

PACKAGES = (
    "fedsim",
    "flwr",
    "flwr-datasets",
    "numpy",
    "torch",
    "safetensors",
    "scikit-learn",
    "opacus",
    "dp-accounting",
)

# Types of a manifest's values, and of the values within them.
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("status", "run-id", "kind", "name", "experiment-sha256", "data-sha256"), (str,)),
    **dict.fromkeys(("not-resumable", "started", "mechanism", "noise", "arithmetic", "error"), (str,)),
    **dict.fromkeys(("versions", "host", "modules", "task", "epsilon", "final", "deployment"), (dict,)),
    **dict.fromkeys(("secure-aggregation", "fields"), (dict,)),
    "seed": (int, type(None)),
    "commit": (str, type(None)),
    "resumable": (bool,),
    "resumed": (list,),
    "wall-seconds": (int, float),
    "pruned-after": (int,),
}
INNER: dict[str, tuple[type, ...]] = {
    "versions": (str, type(None)),
    "modules": (str,),
    "epsilon": (dict,),
    "fields": (int,),
    "resumed": (dict,),
}

ARITHMETIC = {
    "grid": "grid: sums and noise are rounded to one grid and added exactly; what remains of finite precision: normals "
    "end 8.5 standard deviations out, and an example's own gradient may differ in its last digits by the batch's size",
    "float32": "float32: added as floating-point numbers; epsilon is that of ideal, real-valued noise, which the low bits "
    "of what was released undo",
}


def experiment_manifest(
    experiment: Experiment, data_sha256: str, not_resumable: str | None
) -> dict[str, Any]:
    """Return the manifest of an experiment's run, without its status and `run-id`.

    `not_resumable` says why the run can't be resumed after a kill; None: it can.
    """
    own = experiment.privacy.own
    return {
        "kind": "experiment",
        "name": experiment.name,
        "seed": experiment.seed,
        "experiment-sha256": experiment_sha256(experiment.to_toml()),
        "data-sha256": data_sha256,
        "resumable": not_resumable is None,
        **({} if not_resumable is None else {"not-resumable": not_resumable}),
        **session(),
        "modules": _users_modules(experiment),
        **({} if own is None else {"mechanism": own.use}),  # for loading its events
        "noise": experiment.privacy.noise,
        **scoring_of(experiment).manifest(),
        **({"arithmetic": ARITHMETIC[experiment.privacy.arithmetic]} if experiment.privacy.releases else {}),
        "epsilon": {},  # by adversary, from a mechanism's account
    }


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a file; raises `OSError`, and `Refused` if it is damaged: no object, or of other types."""
    tree = read_object(path)
    with unless_damaged(path):
        check_types(tree, TYPES)
        for key, types in INNER.items():
            inner = tree.get(key, [])
            for value in inner.values() if isinstance(inner, dict) else inner:
                check_types({key: value}, {key: types})
        Scoring.of(tree)
    return tree


def session() -> dict[str, Any]:
    """Return the values that may differ between a run's sessions."""
    return {
        "commit": _commit(),
        "versions": _versions(),
        "host": {"system": platform.platform(), "machine": platform.machine(), "cores": cores()},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def experiment_sha256(text: str) -> str:
    """Return the hash of an experiment file's values, without `[runtime]`, which changes no result."""
    tree = {key: value for key, value in tomllib.loads(text).items() if key != "runtime"}
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()


def changed_versions(manifest: dict[str, Any]) -> list[str]:
    """Return a phrase for each package with another version than at the run's beginning."""
    here, before = _versions(), manifest["versions"]
    return [
        f"{name} {here.get(name)} (was {then})" for name, then in before.items() if here.get(name) != then
    ]


def _users_modules(experiment: Experiment) -> dict[str, str]:
    """Return the folder of each of the user's own modules, for later processes."""
    folders = {}
    for reference in experiment.own_code.values():
        top = reference.partition(":")[0].partition(".")[0]
        module = sys.modules.get(top)
        places = [*getattr(module, "__path__", []), getattr(module, "__file__", None)]
        if places[0]:
            folders[top] = str(Path(places[0]).absolute().parent)
    return folders


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        versions[name] = None
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _commit() -> str | None:
    """Return the commit of a fedsim checkout, with `+` for local changes; None: it is no checkout."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],  # noqa: S607
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
