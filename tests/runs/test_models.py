"""Models of users, in whole runs: what breaks in other simulators, with the right values from elsewhere."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedsim
from tests.conftest import experiment


@pytest.mark.parametrize("engine", ["sequential", "local"])
def test_evaluation_leaves_each_module_in_its_mode(engine: str) -> None:
    runtime = [f"runtime.engine={engine}"] + ["runtime.workers=2"] * (engine == "local")
    model = "model.name=tests.support.models:asleep", "data.held-out=0.2"
    runs = [
        fedsim.run(experiment(*model, *runtime, f"server.client-evaluation={which}"), which)
        for which in ("none", "all")
    ]
    first, second = (load_file(run.path / "model.safetensors") for run in runs)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], strict=True)
    assert (second["1.running_mean"] == 0).all()
    assert (second["1.running_var"] == 1).all()
