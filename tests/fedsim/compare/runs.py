"""Synthetic runs with results that can be computed by hand."""

from pathlib import Path
from typing import Any

from fedsim.compare.costs import Cost
from fedsim.compare.runs import ComparedRun


def cost(epsilon: float | None, adversary: str = "released-models", unit: str = "client") -> Cost:
    return Cost(
        adversary=adversary,
        epsilon=epsilon,
        spent=epsilon,
        why="" if epsilon else "trusted",
        bound_by=adversary,
        who="whoever",
        unit=unit,
        relation="zero-out",
        delta=1e-3,
        noise_multiplier=1.0,
        sampling="0.1 of clients",
        steps="10 rounds",
        noise="seeded",
    )


def member(
    mechanism: str = "no privacy",
    accuracy: float = 0.5,
    *costs: Cost,
    seed: int = 0,
    status: str = "completed",
    task: str = "digits",
    rows: list[dict[str, Any]] | None = None,
    **settings: Any,
) -> ComparedRun:
    """Return a run of one round; `settings` have `__` for the dots of keys."""
    keys = {key.replace("__", ".").replace("_", "-"): value for key, value in settings.items()}
    if costs and costs[0].epsilon is not None:
        keys.setdefault(f"privacy.{mechanism}.epsilon", costs[0].epsilon)
    return ComparedRun(
        path=Path("runs", f"{mechanism}-{seed}"),
        name="made-up",
        seed=seed,
        status=status,
        error="",
        task=task,
        mechanism=mechanism,
        settings=keys,
        rows=rows or [{"round": 1, "accuracy": accuracy, "clients": 3, "failures": 1, "seconds": 2.0}],
        costs={each.adversary: each for each in costs},
        update_bytes=100,
        wall_seconds=2.0,
        commit="abc",
    )
