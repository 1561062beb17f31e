"""Real runs, made once; they take three seconds."""

from pathlib import Path

import pytest

import fedsim
from tests.conftest import experiment

HELD_OUT = ("data.held-out=0.3", "server.client-evaluation=all")
DP_FEDAVG = ("server.sampling=poisson", "privacy.dp-fedavg.delta=1e-3", "privacy.dp-fedavg.clip=0.5")
LOCAL_DP = (
    "privacy.local-dp.delta=1e-3",
    "privacy.local-dp.clip=0.5",
    "privacy.local-dp.noise-multiplier=0.5",
)
KINDS = {
    "none": HELD_OUT,
    "dp-fedavg-z1": (*DP_FEDAVG, *HELD_OUT, "privacy.dp-fedavg.noise-multiplier=1"),
    "dp-fedavg-z4": (*DP_FEDAVG, *HELD_OUT, "privacy.dp-fedavg.noise-multiplier=4"),
    "local-dp": (*LOCAL_DP, *HELD_OUT),
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three kinds of runs with two seeds each, in a folder as a sweep has it, and one that failed."""
    folder = tmp_path_factory.mktemp("sweep")
    for name, overrides in KINDS.items():
        for seed in (0, 1):
            setting = experiment(*overrides, f"seed={seed}", f"name={name}")
            fedsim.run(setting, folder / "runs" / f"{name}-s{seed}")
    with pytest.raises(fedsim.RunFailed):
        fedsim.run(experiment("client.learning-rate=1e38"), folder / "runs" / "failed")
    return folder
