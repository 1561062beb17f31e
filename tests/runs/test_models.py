"""Models of users, in whole runs: what breaks in other simulators, with the right values from elsewhere."""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import fedsim
from fedsim import Refused
from tests.conftest import experiment
from tests.support import models
from tests.support.runs import bits

CLIENT_LEVEL = (
    "server.sampling=poisson",
    "privacy.dp-fedavg.noise-multiplier=0.5",
    "privacy.dp-fedavg.clip=1.0",
    "privacy.dp-fedavg.delta=1e-3",
)


def test_evaluation_leaves_each_module_in_its_mode() -> None:
    model = "model.name=tests.support.models:asleep", "data.held-out=0.2"
    everybody = "server.client-evaluation=all"
    runs = [
        fedsim.run(experiment(*model, *more), f"{number}")
        for number, more in enumerate(
            [(), (everybody,), (everybody, "runtime.engine=local", "runtime.workers=2")]
        )
    ]
    first, *others = ((run.path / "model.safetensors").read_bytes() for run in runs)
    assert others == [first, first]
    trained = load_file(runs[1].path / "model.safetensors")
    assert (trained["1.running_mean"] == 0).all()
    assert (trained["1.running_var"] == 1).all()


@pytest.mark.parametrize(
    ("form", "line"),
    [
        (
            "middle",
            r"outputs have shape \(4, 1, 10\), the labels \(4,\); outputs of shape \(4, 10\) are needed",
        ),
        ("squeezed", r"outputs have shape \(10,\), the labels \(1,\); outputs of shape \(1, 10\) are needed"),
        (
            "one",
            r"outputs have shape \(4, 1\): 1 for each label, and there are 10 classes; task\.outputs\.size",
        ),
        ("tuple", r"forward returns tuple; a tensor is needed, or a dict with one as 'logits'"),
        ("other dict", r"forward returns dict without 'logits'; a tensor is needed"),
    ],
)
def test_outputs_that_the_task_does_not_take_are_refused_before_anything_is_written(
    form: str, line: str
) -> None:
    with pytest.raises(
        Refused, match=rf"^model\.name = 'tests\.support\.models:shaped': .*{line}"
    ) as refused:
        fedsim.run(experiment("model.name=tests.support.models:shaped", f"model.form={form}"), "run")
    assert "\n" not in str(refused.value)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("failing", r"support/models\.py:\d+: KeyError: "),
        ("typed", r"layer\.weight is complex: real numbers are needed"),
        ("sparse", r"1\.weight has sparse gradients; allowed: sparse = False"),
        pytest.param(
            "quantised", r"table is quantised", marks=pytest.mark.filterwarnings("ignore:torch.quantize")
        ),
        ("meta", r"1\.weight is on the device 'meta': allowed: 'cpu'"),
        ("frozen", r"it has no parameter that is trained"),
    ],
)
def test_models_that_cannot_be_trained_are_refused_in_one_line(name: str, line: str) -> None:
    options = ["model.dtype=complex64"] if name == "typed" else []
    with pytest.raises(
        Refused, match=rf"^model\.name = 'tests\.support\.models:{name}': .*{line}"
    ) as refused:
        fedsim.run(experiment(f"model.name=tests.support.models:{name}", *options), "run")
    assert "\n" not in str(refused.value)
    assert not Path("run").exists()


def test_logits_in_a_dict_are_as_good_as_a_tensor() -> None:
    runs = [
        bits(fedsim.run(experiment("model.name=tests.support.models:shaped", f"model.form={form}"), form))
        for form in ("tensor", "dict")
    ]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("model", ["typed", "lazy", "extra"])
@pytest.mark.parametrize("mechanism", [(), CLIENT_LEVEL], ids=["plain", "dp-fedavg"])
def test_unusual_models_are_trained_and_read_back(model: str, mechanism: tuple[str, ...]) -> None:
    options = ["model.dtype=bfloat16"] if model == "typed" else []
    run = fedsim.run(experiment(f"model.name=tests.support.models:{model}", *options, *mechanism), "run")
    trained = run.model().state_dict()
    for name, array in load_file(run.path / "model.safetensors").items():
        assert torch.equal(trained[name], torch.from_numpy(array).to(trained[name].dtype))
    assert mechanism or run.accuracy > 0.5


@pytest.mark.parametrize(
    "mechanism",
    [CLIENT_LEVEL, ("server.weighting=uniform", "privacy.secagg.clip=5.0", "server.cohort=6")],
    ids=["dp-fedavg", "secagg"],
)
def test_batch_norm_runs_where_whole_updates_are_protected(mechanism: tuple[str, ...]) -> None:
    run = fedsim.run(experiment("model.name=tests.support.models:batch_normed", *mechanism), "run")
    trained = load_file(run.path / "model.safetensors")
    assert (trained["1.running_mean"] != 0).any()
    assert (trained["1.running_var"] >= 0).all()
    assert all(np.isfinite(array).all() for array in trained.values())


def test_a_later_run_has_the_data_and_the_code_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(name: str, sign: int) -> None:
        x = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
        y = (sign * x[:, 0] > 0).astype(np.int64)
        np.savez(name, x_train=x[:100], y_train=y[:100], x_test=x[100:], y_test=y[100:])

    def run(path: str, out: str) -> fedsim.Run:
        data = ("data.source=npz", f"data.path={path}", "data.clients=4")
        return fedsim.run(experiment(*data, "model.name=changing_model:build"), out)

    code = "from torch import nn\ndef build(task):\n    return nn.Sequential(nn.Linear(3, 2{}))\n"
    (tmp_path / "changing_model.py").write_text(code.format(""))
    monkeypatch.syspath_prepend(tmp_path)
    write("data.npz", 1)
    first = run("data.npz", "first")
    write("data.npz", -1)
    write("other.npz", -1)
    second, other = run("data.npz", "second"), run("other.npz", "other")
    assert bits(second) == bits(other) != bits(first)
    (tmp_path / "changing_model.py").write_text(code.format(", bias=False"))
    importlib.reload(sys.modules["changing_model"])
    assert load_file(run("data.npz", "third").path / "model.safetensors").keys() == {"0.weight"}


def test_runs_in_threads_take_turns() -> None:
    alone = bits(fedsim.run(experiment(), "alone"))
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda number: bits(fedsim.run(experiment(), f"{number}")), range(3)))
    assert together == [alone] * 3


def test_what_is_outside_of_the_state_dict_leaks_to_no_other_client() -> None:
    model = ("model.name=tests.support.models:leaking", "data.held-out=0.2", "server.client-evaluation=all")
    engines = [(), ("runtime.engine=local", "runtime.workers=2")]
    runs = [bits(fedsim.run(experiment(*model, *engine), f"{len(engine)}")) for engine in engines]
    assert runs[0] == runs[1]


def test_a_model_that_draws_in_evaluation_has_one_score(caplog: pytest.LogCaptureFixture) -> None:
    still = ("client.learning-rate=1e-30", "data.test-share=0.5")  # more than one batch of a score
    rows = fedsim.run(experiment("model.name=tests.support.models:leaking", *still), "run").rows
    assert len({(row["loss"], row["accuracy"]) for row in rows}) == 1
    assert len({row["train-loss"] for row in rows}) == len(rows)
    assert "calls, seen, total: changed in training, and no part of the state dict" in caplog.text


def test_a_model_of_the_main_module_runs_in_this_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules["__main__"], "build", lambda task: models.shaped(task, "tensor"), raising=False
    )
    assert fedsim.run(experiment("model.name=__main__:build"), "here").status == "completed"
    with pytest.raises(Refused, match=r"^model\.name = '__main__:build': is in the main module") as refused:
        fedsim.run(experiment("model.name=__main__:build", "runtime.engine=local"), "elsewhere")
    assert "runtime.engine = 'sequential'" in str(refused.value)
    with pytest.raises(Refused, match=r"model\.name = '__main__:build': is in the main module"):
        fedsim.sweep(experiment("model.name=__main__:build"), out="sweep")
    assert not Path("elsewhere").exists()
    assert not Path("sweep").exists()
