"""Disclosure rules of runs with the operating system's noise: which file has which keys, and which theorem covers them.

Printing is releasing. So under `noise = "os"` the rows, the log, the terminal, trackers and the manifest hold only
values covered by a theorem for every adversary; all others go to the folder `private/`, readable only by its owner,
or nowhere. `ITEMS` lists what each value depends on and where it is written; `COVERS` lists the theorems of each
mechanism, from its package. What may be published, and what a server hands out, follows from both. They are allow
lists: an unlisted key is private, and an unlisted file stays where it is.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.catalogue import MECHANISMS, find_mechanism
from fedsim.privacy.mechanism import Cover, Kind
from fedsim.privacy.secagg import disclosure as secagg
from fedsim.tasks.metric import Scoring

PRIVATE = "private"
PUBLIC = {"public": True}  # `extra` of a public log record
EXPERIMENT, MANIFEST = "experiment.toml", "manifest.json"
METRICS, MODEL = "metrics.jsonl", "model.safetensors"
LEDGER, LOG = "ledger.jsonl", "log.txt"
ROWS = f"{PRIVATE}/{METRICS}"  # all of a row, and its name in a checkpoint
SCORES = "the task's metrics"  # stands for the metrics' keys in rows


@dataclass(frozen=True)
class Item:
    """A written value.

    Attributes:
        file: File of the run directory.
        keys: Keys of a line or of the JSON in it; a final `*` stands for any rest. Empty: the whole file.
        kind: What it depends on.
        published: Whether an export has it too: only values that are equal for runs with equal releases.
    """

    file: str
    keys: tuple[str, ...]
    kind: Kind
    published: bool = True

    def has(self, key: str) -> bool:
        """Return whether a key is listed."""
        return any(key.startswith(k[:-1]) if k.endswith("*") else key == k for k in self.keys)


ITEMS = (
    Item(EXPERIMENT, (), Kind.PLAN),
    Item(MODEL, (), Kind.MODELS),
    Item(METRICS, ("round", "epsilon-*"), Kind.PLAN),
    Item(METRICS, ("noise-multiplier", "sampling-rate", "dp-steps", "delta", "unit", "relation"), Kind.PLAN),
    Item(METRICS, (SCORES, "loss"), Kind.MODELS),
    Item(METRICS, ("released-*",), Kind.NOISED),
    Item(MANIFEST, ("kind", "name", "status", "seed", "experiment-sha256"), Kind.PLAN),
    # A user's own mechanism, the task's metrics, the arithmetic of adding the noise.
    Item(MANIFEST, ("mechanism", "task", "noise", "arithmetic", "versions"), Kind.PLAN),
    # The keys of `final` are those of rows.
    Item(MANIFEST, ("epsilon", "secure-aggregation", "fields", "final"), Kind.PLAN),
    Item(MANIFEST, ("run-id", "resumable", "not-resumable", "commit", "host"), Kind.PLAN, published=False),
    # `error` is never the exception, which is in private/.
    Item(MANIFEST, ("started", "modules", "resumed", "error", "pruned-after"), Kind.PLAN, published=False),
    Item(MANIFEST, ("deployment",), Kind.PLAN, published=False),
    Item(f"{PRIVATE}/{LEDGER}", (), Kind.COHORTS, published=False),
    Item(ROWS, ("clients",), Kind.COHORTS, published=False),
    Item(
        ROWS, ("failures", "failure-reasons", "abandoned", "diverged", "seconds"), Kind.REST, published=False
    ),
    Item(ROWS, ("train-loss", "client-*", "secagg-*", "*"), Kind.REST, published=False),
    Item(f"{PRIVATE}/{MANIFEST}", ("data-sha256", "error", "wall-seconds", "*"), Kind.REST, published=False),
    Item(f"{PRIVATE}/{LOG}", (), Kind.REST, published=False),
)

# Keys of an adversary's entry in the manifest's `epsilon` under every mechanism: all functions of the plan.
TERMS = frozenset(
    {
        *("who", "why", "unavailable", "epsilon", "pld", "rdp", "spent", "unit", "relation", "delta"),
        *("noise", "noise-multiplier", "clip", "rounds", "participations", "sampling", "client-rate"),
    }
)
# The adversary that sees most comes first. An epsilon against one holds against all after it, which see less
# (post-processing).
ADVERSARIES = ("server", "known-cohort", "released-models")
POPULATION = "population"  # the epsilon of a represented deployment: a function of the plan

COVERS = (*(cover for entry in MECHANISMS.values() for cover in entry.load().covers), *secagg.COVERS)


def mechanisms_of(run: Path) -> tuple[str, ...]:
    """Return the mechanisms in a run's `experiment.toml`; a user's own by its reference."""
    tables = tomllib.loads((run / EXPERIMENT).read_text(encoding="utf-8")).get("privacy", {})
    known = dict.fromkeys(cover.mechanism for cover in COVERS)
    own = [tables["own"]["use"]] if "own" in tables else []
    return (*(name for name in known if name in tables), *own)


def covers_of(mechanisms: Collection[str]) -> tuple[Cover, ...]:
    """Return the covers of a run with these mechanisms; a user's own is named by its reference."""
    own = (cover for name in mechanisms if ":" in name for cover in find_mechanism(name).load().covers)
    return (*(cover for cover in COVERS if cover.mechanism in mechanisms), *own)


def terms_of(mechanisms: Collection[str]) -> frozenset[str]:
    """Return the allowed keys of a manifest's `epsilon` entry under these mechanisms; names as in `covers_of`."""
    known = (find_mechanism(name) for name in mechanisms if name in MECHANISMS or ":" in name)
    return TERMS.union(*(entry.load().report_terms for entry in known))


def is_restricted(noise: object) -> bool:
    """Return whether these rules hold for a run: its `privacy.noise`, or its manifest's `noise`, is not seeded."""
    return noise != "seeded"


def is_public(file: str, key: str, mechanisms: Collection[str], scores: Collection[str] = ()) -> bool:
    """Return whether a key of a public file is public: a theorem of the run's mechanism must cover its kind.

    Args:
        file: `metrics.jsonl` or `manifest.json`.
        key: Of a row, or of the manifest.
        mechanisms: The run's tables under `[privacy]`; the plan and the models need no theorem.
        scores: Names of the task's metrics.
    """
    key = SCORES if file == METRICS and key in scores else key
    kinds = {Kind.PLAN, Kind.MODELS}.union(*(cover.kinds for cover in covers_of(mechanisms)))
    return any(item.file == file and item.kind in kinds and item.has(key) for item in ITEMS)


def public_row(row: Mapping[str, Any], mechanisms: Collection[str], scoring: Scoring) -> dict[str, Any]:
    """Return the public part of a round's row.

    >>> row = {"round": 3, "accuracy": 0.9, "clients": 7, "released-train-loss": 1.2}
    >>> public_row(row, ["dp-sgd"], Scoring())
    {'round': 3, 'accuracy': 0.9}
    """
    return {key: value for key, value in row.items() if is_public(METRICS, key, mechanisms, scoring.names)}


def public_manifest(manifest: Mapping[str, Any], mechanisms: Collection[str]) -> dict[str, Any]:
    """Return the public part of a manifest."""
    kept = {key: value for key, value in manifest.items() if is_public(MANIFEST, key, mechanisms)}
    if "epsilon" in kept:
        kept["epsilon"] = _public_report(kept["epsilon"], mechanisms)
    if "final" in kept:
        kept["final"] = public_row(kept["final"], mechanisms, Scoring.of(manifest))
    return kept


def published_manifest(manifest: Mapping[str, Any], mechanisms: Collection[str]) -> dict[str, Any]:
    """Return the exported part of a manifest: equal for runs with equal releases."""
    items = [item for item in ITEMS if item.file == MANIFEST and item.published]
    kept = public_manifest(manifest, mechanisms)
    return {key: value for key, value in kept.items() if any(item.has(key) for item in items)}


def _public_report(report: Mapping[str, Mapping[str, Any]], mechanisms: Collection[str]) -> dict[str, Any]:
    """Return the public part of a manifest's `epsilon`."""
    known = {cover.adversary for cover in (*COVERS, *covers_of(mechanisms))} | {POPULATION}
    terms = terms_of(mechanisms)
    return {
        adversary: {term: value for term, value in entry.items() if term in terms}
        for adversary, entry in report.items()
        if adversary in known
    }


PUBLISHED = tuple(dict.fromkeys(item.file for item in ITEMS if item.published))
PRIVATE_FILES = tuple(dict.fromkeys(item.file for item in ITEMS if item.file.startswith(f"{PRIVATE}/")))


def may_be_copied(file: str, noise: object) -> bool:
    """Return whether a server hands a file (with `/` between folders) of a run directory to its operator.

    Never a run's state (it may hold keys and cohorts), never hidden files, and with the operating system's noise no
    private files. `noise` is the run's manifest's.
    """
    return file in PUBLISHED or (file == LEDGER and not is_restricted(noise))
