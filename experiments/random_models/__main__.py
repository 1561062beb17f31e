"""Trains random small models for two rounds each, by a mechanism and an engine that are drawn with them.

    python -m fedsim.experiments.random_models --models 200 --json experiments/random_models/outcomes.json

A model is trained on the sequential engine and on another one. It must end with the same bits on both, or be refused in
one line, the same on both. Its clipped sum under DP-SGD must be autograd's. Finished models are written to the file, and
not repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import fedsim
from fedsim.experiments.random_models.gradients import distance
from fedsim.results.files import write_whole
from fedsim.streams import numpy_stream

TERMS = {"delta": 5e-4, "clip": 1.0, "noise-multiplier": 1.0}
MECHANISMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dp-sgd": {"dp-sgd": TERMS},
    "dp-fedavg": {"dp-fedavg": TERMS},
    "dp-ftrl": {"dp-ftrl": {**TERMS, "min-separation": 2, "adversary": "released-models"}},
    "local-dp": {"local-dp": TERMS},
    "secagg": {"secagg": {"mode": "real"}},
}
ENGINES: tuple[dict[str, Any], ...] = (
    {"engine": "local", "workers": 1},
    {"engine": "local", "workers": 2},
    {"engine": "ray", "workers": 2},
)
SHARES = (0.45, 0.45, 0.1)


def experiment_of(number: int, runtime: dict[str, Any]) -> tuple[str, fedsim.Experiment]:
    """Return the mechanism's name and the experiment of a number, on an engine."""
    draw = numpy_stream(0, "random-run", round_=number)
    mechanism = list(MECHANISMS)[draw.integers(len(MECHANISMS))]
    server: dict[str, Any] = {"cohort": 4, "weighting": "uniform"}
    if mechanism == "dp-ftrl":
        server["sampling"] = "b-min-sep"
    return mechanism, fedsim.Experiment.model_validate(
        {
            "name": f"random-{number}",
            "seed": number,
            "rounds": 2,
            "data": {"clients": 12, "partition": "iid"},
            "model": {"name": "fedsim.experiments.random_models.models:build", "number": number},
            "client": {"batch-size": 32, "learning-rate": 0.1},
            "server": server,
            "privacy": MECHANISMS[mechanism],
            "runtime": runtime,
        }
    )


def outcome(number: int, runtime: dict[str, Any]) -> dict[str, str]:
    """Train a model, and return how it ended: a hash of its bits, a refusal, or the last line of a traceback."""
    _, experiment = experiment_of(number, runtime)
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = fedsim.run(experiment, Path(folder) / "run")
        except fedsim.Refused as refused:
            return {"refused": str(refused)}
        except fedsim.RunFailed as failed:
            return {"failed": str(failed)}
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            return {
                "crashed": f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
            }
        return {"bits": hashlib.sha256((run.path / "model.safetensors").read_bytes()).hexdigest()}


def engine_of(number: int) -> dict[str, Any]:
    """Return the engine of a number, beside the sequential one."""
    draw = numpy_stream(0, "random-engine", round_=number)
    return ENGINES[draw.choice(len(ENGINES), p=SHARES)]


def row_of(number: int) -> dict[str, Any]:
    """Return the row of a model: both outcomes and whether they are one, and the distance of its clipped sum."""
    engine = engine_of(number)
    mechanism, _ = experiment_of(number, engine)
    here, there = outcome(number, {"engine": "sequential"}), outcome(number, engine)
    ending = next(iter(here))
    clipped = distance(number)
    return {
        "model": number,
        "mechanism": mechanism,
        **engine,
        "ending": ending if here == there else "differs",
        **({} if ending == "bits" and here == there else {"sequential": here, "beside": there}),
        "clipped-sum": clipped if isinstance(clipped, str) else float(f"{clipped:.1e}"),
    }


def main() -> None:
    """Train the models that the file lacks, and print how many ended in each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=200, help="models, by number from 0")
    parser.add_argument("--json", type=Path, help="file of the rows; those in it are not repeated")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    rows: list[dict[str, Any]] = []
    if arguments.json is not None and arguments.json.exists():
        rows = json.loads(arguments.json.read_text())
    done = {row["model"] for row in rows}
    for number in range(arguments.models):
        if number in done:
            continue
        row = row_of(number)
        rows = sorted([*rows, row], key=lambda each: int(each["model"]))
        print(json.dumps(row), flush=True)
        if arguments.json is not None:
            write_whole(arguments.json, (json.dumps(rows, indent=1) + "\n").encode())
    for ending, count in Counter(row["ending"] for row in rows).most_common():
        print(f"{count:4} {ending}")
    sums = [row["clipped-sum"] for row in rows if not isinstance(row["clipped-sum"], str)]
    print(f"{len(sums):4} clipped sums, at most {max(sums):.1e} from autograd's")


if __name__ == "__main__":
    main()
