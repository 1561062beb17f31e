"""What a run whose noise is the operating system's writes, where, and which theorem covers it: said here alone.

What is printed is released. So under `noise = "os"` the rows, the log, the terminal, trackers and the manifest hold what
every adversary's theorem covers, and all else goes to the folder `private/`, which is its owner's alone, or nowhere.

`ITEMS` says what each value is made of and where it is written, `COVERS` which theorem lets whom have it: each mechanism's,
which stand in its package. What may be
published, and what a server hands out, follows from both. They are lists of what is allowed: a key that is not in them is
private, and a file that is not in them stays where it is. `fedsim.results.disclosure_table` makes the documentation's table
of them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.catalogue import MECHANISMS, find_mechanism
from fedsim.privacy.disclosure import Cover, Kind
from fedsim.privacy.secagg import disclosure as secagg
from fedsim.tasks.metric import Scoring

PRIVATE = "private"
PUBLIC = {"public": True}  # `extra` of a log record that may be printed, where others may not
EXPERIMENT, MANIFEST, METRICS, MODEL = (
    "experiment.toml",
    "manifest.json",
    "metrics.jsonl",
    "model.safetensors",
)
LEDGER, LOG = "ledger.jsonl", "log.txt"
SCORES = "the task's metrics"  # stands for keys of rows, whose names are in the manifest


@dataclass(frozen=True)
class Item:
    """Something that is written.

    Attributes:
        file: Of the run directory.
        keys: Of a line or of the JSON in it; a `*` at the end stands for any rest. Empty: the whole file.
        kind: What it is made of.
        published: Whether an export has it too: not what tells two runs apart that have released the same.
    """

    file: str
    keys: tuple[str, ...]
    kind: Kind
    published: bool = True

    def has(self, key: str) -> bool:
        """Say whether a key is among these."""
        return any(key.startswith(k[:-1]) if k.endswith("*") else key == k for k in self.keys)


ITEMS = (
    Item(EXPERIMENT, (), Kind.PLAN),
    Item(MODEL, (), Kind.MODELS),
    Item(
        METRICS,
        (
            "round",
            "epsilon-*",
            "noise-multiplier",
            "sampling-rate",
            "dp-steps",
            "delta",
            "unit",
            "relation",
        ),
        Kind.PLAN,
    ),
    Item(METRICS, (SCORES, "loss"), Kind.MODELS),
    Item(METRICS, ("released-*",), Kind.NOISED),
    Item(
        MANIFEST,
        (
            "kind",
            "name",
            "status",
            "seed",
            "experiment-sha256",
            "mechanism",  # a user's own
            "task",  # its metrics
            "noise",
            "arithmetic",  # of the noise and what it is added to
            "versions",
            "epsilon",
            "secure-aggregation",
            "final",  # its rows' keys are those of metrics.jsonl
        ),
        Kind.PLAN,
    ),
    Item(
        MANIFEST,
        (
            "run-id",
            "resumable",
            "not-resumable",
            "commit",
            "host",
            "started",
            "modules",
            "resumed",
            "error",  # never what was raised: that is in private/
            "pruned-after",
            "deployment",
        ),
        Kind.PLAN,
        published=False,
    ),
    Item(f"{PRIVATE}/{LEDGER}", (), Kind.COHORTS, published=False),
    Item(f"{PRIVATE}/{METRICS}", ("clients",), Kind.COHORTS, published=False),
    Item(
        f"{PRIVATE}/{METRICS}",
        (
            "failures",
            "failure-reasons",
            "abandoned",
            "seconds",
            "train-loss",
            "client-*",
            "secagg-*",
            "*",
        ),
        Kind.REST,
        published=False,
    ),
    Item(f"{PRIVATE}/{MANIFEST}", ("data-sha256", "error", "wall-seconds", "*"), Kind.REST, published=False),
    Item(f"{PRIVATE}/{LOG}", (), Kind.REST, published=False),
)

# What an adversary's entry in the manifest's `epsilon` may say under every mechanism: functions of the plan, each of them.
TERMS = frozenset(
    {
        *("who", "why", "unavailable", "epsilon", "pld", "rdp", "spent", "unit", "relation", "delta"),
        *("noise", "noise-multiplier", "clip", "rounds", "participations", "sampling", "client-rate"),
    }
)
POPULATION = "population"  # the epsilon of a deployment that a simulation stands for: of the plan alone


COVERS: tuple[Cover, ...] = (
    *(cover for entry in MECHANISMS.values() for cover in entry.load().covers),
    *secagg.COVERS,
)


def mechanisms_of(run: Path) -> tuple[str, ...]:
    """Return the mechanisms that a run's `experiment.toml` has; a user's own by its reference."""
    tree = tomllib.loads((run / EXPERIMENT).read_text(encoding="utf-8"))
    tables = tree.get("privacy", {})
    known = dict.fromkeys(cover.mechanism for cover in COVERS)
    own = [tables["own"]["use"]] if "own" in tables else []
    return (*(name for name in known if name in tables), *own)


def covers_of(mechanisms: Collection[str]) -> tuple[Cover, ...]:
    """Return what covers a run with some mechanisms; a user's own is called by its reference."""
    own = (cover for name in mechanisms if ":" in name for cover in find_mechanism(name).load().covers)
    return (*(cover for cover in COVERS if cover.mechanism in mechanisms), *own)


def terms_of(mechanisms: Collection[str]) -> frozenset[str]:
    """Return what an entry of the manifest's `epsilon` may say under some mechanisms; names as in `covers_of`."""
    known = (find_mechanism(name) for name in mechanisms if name in MECHANISMS or ":" in name)
    return TERMS.union(*(entry.load().report_terms for entry in known))


def is_discreet(noise: object) -> bool:
    """Say whether all this holds for a run: its `privacy.noise`, or its manifest's `noise`, is not the seed's."""
    return noise != "seeded"


# --- what may be public -------------------------------------------------------------------------------------


def is_public(file: str, key: str, mechanisms: Collection[str], scores: Collection[str] = ()) -> bool:
    """Say whether a key of a public file is: a theorem of the run's mechanism must cover what it is made of.

    Args:
        file: `metrics.jsonl` or `manifest.json`.
        key: Of a row, or of the manifest.
        mechanisms: Tables under `[privacy]` that are there; none: the plan and the models need no theorem.
        scores: Names of the task's metrics.
    """
    key = SCORES if file == METRICS and key in scores else key
    kinds = {kind for cover in covers_of(mechanisms) for kind in cover.kinds}
    kinds |= {Kind.PLAN, Kind.MODELS}
    return any(item.file == file and item.kind in kinds and item.has(key) for item in ITEMS)


def public_row(row: Mapping[str, Any], mechanisms: Collection[str], scoring: Scoring) -> dict[str, Any]:
    """Return what may be public of a round's row.

    >>> row = {"round": 3, "accuracy": 0.9, "clients": 7, "released-train-loss": 1.2}
    >>> public_row(row, ["dp-sgd"], Scoring())
    {'round': 3, 'accuracy': 0.9}
    """
    return {key: value for key, value in row.items() if is_public(METRICS, key, mechanisms, scoring.names)}


def public_manifest(manifest: Mapping[str, Any], mechanisms: Collection[str]) -> dict[str, Any]:
    """Return what may be public of a manifest."""
    kept = {key: value for key, value in manifest.items() if is_public(MANIFEST, key, mechanisms)}
    if "epsilon" in kept:
        kept["epsilon"] = _public_report(kept["epsilon"], mechanisms)
    if "final" in kept:
        kept["final"] = public_row(kept["final"], mechanisms, Scoring.of(manifest))
    return kept


def published_manifest(manifest: Mapping[str, Any], mechanisms: Collection[str]) -> dict[str, Any]:
    """Return what an export has of a manifest: the same for all runs that have released the same."""
    items = [item for item in ITEMS if item.file == MANIFEST and item.published]
    kept = public_manifest(manifest, mechanisms)
    return {key: value for key, value in kept.items() if any(item.has(key) for item in items)}


def _public_report(report: Mapping[str, Mapping[str, Any]], mechanisms: Collection[str]) -> dict[str, Any]:
    """Return what may be public of a manifest's `epsilon`."""
    known = {cover.adversary for cover in (*COVERS, *covers_of(mechanisms))} | {POPULATION}
    terms = terms_of(mechanisms)
    return {
        adversary: {term: value for term, value in entry.items() if term in terms}
        for adversary, entry in report.items()
        if adversary in known
    }


# --- files --------------------------------------------------------------------------------------------------

PUBLISHED = tuple(dict.fromkeys(item.file for item in ITEMS if item.published))
PRIVATE_FILES = tuple(
    dict.fromkeys(item.file for item in ITEMS if item.file.startswith(f"{PRIVATE}/"))
)  # all that `private/` holds


def may_be_copied(file: str, noise: object) -> bool:
    """Say whether a server hands a file of a run directory to its operator, by the path in it.

    Never what a run goes on from (it may hold keys, and who took part), never anything hidden, and of a run with the
    operating system's noise nothing private.

    Args:
        file: With `/` between folders.
        noise: The run's manifest's.
    """
    return file in PUBLISHED or (file == LEDGER and not is_discreet(noise))
