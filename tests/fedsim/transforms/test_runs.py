"""Runs with transforms: the same bits everywhere, within a clip, under secure aggregation, with SCAFFOLD's fields."""

from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedsim
from fedsim.models import initial_model
from tests.conftest import experiment
from tests.fedsim.algorithms.test_scaffold import FAULTS, SECAGG, gap, setting_of
from tests.support.fields import server_state
from tests.support.runs import bits, private_bits
from tests.support.stopping import stopped
from tests.support.tasks import task_of

TOP_K = 'transforms=[{name="top-k", share=0.1}]'
QUANTISED = 'transforms=[{name="quantise", levels=1}]'
BOTH = 'transforms=[{name="top-k", share=0.2}, {name="quantise", levels=8}]'
DP_FEDAVG = "privacy.dp-fedavg={clip=0.05, noise-multiplier=1e-6, delta=1e-3}"
DP_SGD = "privacy.dp-sgd={noise-multiplier=1.0, delta=1e-5}"
LOCAL_DP = "privacy.local-dp={clip=0.2, noise-multiplier=0.1, delta=1e-3}"
BUFFERED = ("server.schedule=buffered",)
COUNTING = "model.name=tests.support.models:batch_normed"
SECURE = ("privacy.secagg.mode=ideal", "privacy.secagg.minimum=2", "privacy.secagg.clip=20.0")


def change_in(*overrides: str) -> np.ndarray:
    """Return by how much one client's round moves the model, `(dimension,)`."""
    setting = experiment("rounds=1", "server.cohort=1", *overrides)
    model = initial_model(setting, task_of(setting))
    before = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    after = load_file(fedsim.run(setting).path / "model.safetensors")
    return np.concatenate([(after[name] - before[name]).ravel() for name in before])


def bits_of(run: fedsim.Run) -> Any:
    """Return the bits of a run, and of its ledger where it has a mechanism."""
    return private_bits(run) if run.ledger.exists() else bits(run)


def test_clients_send_the_transformed_update() -> None:
    plain, sparse = change_in("name=plain"), change_in("name=sparse", TOP_K)
    kept = np.sort(np.argsort(-np.abs(plain), kind="stable")[:65])  # a tenth of 650
    assert np.flatnonzero(sparse).tolist() == kept.tolist()
    np.testing.assert_allclose(sparse[kept], plain[kept], atol=1e-6)


def test_the_order_is_that_of_the_list() -> None:
    """Of an update of one level some coordinates are zero: which, depends on what was zero before."""
    one, other = '{name="top-k", share=0.05}', '{name="quantise", levels=40}'
    first = change_in("name=first", f"transforms=[{one}, {other}]")
    second = change_in("name=second", f"transforms=[{other}, {one}]")
    spacing = np.linalg.norm(change_in("name=plain")) / 40
    of_second = np.abs(second[second != 0]) / spacing
    np.testing.assert_allclose(of_second, np.round(of_second), atol=1e-2)
    of_first = np.abs(first[first != 0]) / spacing
    assert np.abs(of_first - np.round(of_first)).max() > 0.1  # the norm is that of what top-k has left


@pytest.mark.parametrize(
    "more",
    [
        pytest.param((), id="plain", marks=pytest.mark.slow),
        pytest.param((DP_FEDAVG, *SECURE), id="dp-fedavg-ideal"),
        pytest.param((DP_SGD,), id="dp-sgd", marks=pytest.mark.slow),
        pytest.param((DP_FEDAVG,), id="dp-fedavg", marks=pytest.mark.slow),
        pytest.param((LOCAL_DP,), id="local-dp", marks=pytest.mark.slow),
        pytest.param(SECURE, id="ideal", marks=pytest.mark.slow),
        pytest.param(BUFFERED, id="buffered", marks=pytest.mark.slow),
        pytest.param(("server.strategy=fedmedian",), id="fedmedian", marks=pytest.mark.slow),
    ],
)
def test_the_same_bits_on_both_engines_and_after_a_resume(more: tuple[str, ...]) -> None:
    setting = experiment(BOTH, *more)
    run = fedsim.run(setting, "run")
    assert run.status == "completed"
    assert bits_of(fedsim.run(experiment(BOTH, *more, "runtime.engine=local"), "local")) == bits_of(run)
    stopped(setting, "cut")
    assert bits_of(fedsim.resume("cut")) == bits_of(run)
    assert bits(fedsim.run(experiment(*more), "untransformed")) != bits(run)


def test_coins_differ_by_transform_client_and_round() -> None:
    # Two transforms alike, of which the second would change nothing with the coins of the first.
    seen = []

    class Listening:
        def apply(self, update: np.ndarray, draws: np.random.Generator) -> np.ndarray:
            seen.append(float(draws.random()))
            return update

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.toys.own_transform.Blurred", Listening)
        table = '{name="tests.toys.own_transform:Blurred"}'
        fedsim.run(experiment(f"transforms=[{table}, {table}]", "data.clients=4"), "run")
    assert len(set(seen)) == len(seen) == 2 + 2 * 3 * 4  # one trial of each, then rounds and clients


def test_a_mechanism_clips_what_the_transforms_return() -> None:
    inflated = change_in("name=plain", QUANTISED)
    assert np.linalg.norm(inflated) > 4 * np.linalg.norm(change_in("name=untransformed"))
    clipped = change_in("name=clipped", QUANTISED, DP_FEDAVG)
    assert np.linalg.norm(clipped) == pytest.approx(0.05, rel=1e-3)
    np.testing.assert_allclose(clipped / 0.05, inflated / np.linalg.norm(inflated), atol=1e-4)


@pytest.mark.parametrize("mechanism", [DP_SGD, DP_FEDAVG, LOCAL_DP])
def test_the_account_is_as_without_them(mechanism: str) -> None:
    run, without = (fedsim.run(experiment(mechanism, *more), f"run{len(more)}") for more in ((BOTH,), ()))
    assert run.manifest["epsilon"] == without.manifest["epsilon"]
    assert run.ledger.read_bytes() == without.ledger.read_bytes()


@pytest.mark.parametrize(
    ("more", "most"),
    [((), 1e-6), ((*SECAGG, "privacy.secagg.mode=ideal"), 1e-4), ((LOCAL_DP,), 1e-5)],
    ids=["plain", "ideal", "local-dp"],
)
def test_scaffolds_clients_keep_the_sent_changes(more: tuple[str, ...], most: float) -> None:
    run = fedsim.run(setting_of(*FAULTS, TOP_K, *more), "run")
    assert sum(row["failures"] for row in run.rows) > 3
    assert gap(run.path) < most
    control = server_state(run.path)["values"]["control"]
    assert max(float(np.abs(values).max()) for values in control.values()) > 0.01


@pytest.mark.parametrize("scale", [0.01, 0.3, 1e6])
def test_model_and_fields_are_one_vector(scale: float) -> None:
    setting = setting_of("rounds=1", "server.cohort=1", TOP_K, f"algorithm.control-scale={scale}")
    run = fedsim.run(setting, "run")
    before, after = initial_model(setting, task_of(setting)), load_file(run.path / "model.safetensors")
    model = sum(np.count_nonzero(after[name] - t.numpy()) for name, t in before.state_dict().items())
    control = sum(map(np.count_nonzero, server_state(run.path)["values"]["control"].values()))
    assert model + control == 130  # a tenth of twice 650
    # A control variate becomes the difference over steps x rate.
    assert (model == 0, control == 0) == (scale == 1e6, scale == 0.01)


def test_an_update_with_nan_is_left_to_the_server() -> None:
    run = fedsim.run(experiment(BOTH, "rounds=6", "faults.nan=0.3", "data.clients=20"), "run")
    assert run.status == "completed"
    assert sum(row["failures"] for row in run.rows) > 2
    assert all(np.isfinite(row["loss"]) for row in run.rows)


def test_a_counter_of_batch_norm_passes_by_a_transform() -> None:
    plain, less = (
        load_file(fedsim.run(experiment(*overrides), name).path / "model.safetensors")
        for overrides, name in (((COUNTING,), "plain"), ((TOP_K, COUNTING), "top-k"))
    )
    assert less["1.num_batches_tracked"] == plain["1.num_batches_tracked"] > 0


def test_settings_of_transforms_are_columns_of_their_own() -> None:
    fedsim.run(experiment(TOP_K, "rounds=1"), "runs/a")
    fedsim.run(experiment(BOTH, "rounds=1"), "runs/b")
    frame = fedsim.load_runs("runs/*")
    assert frame["transforms.0.share"].to_list() == [0.1, 0.2]
    assert frame["transforms.1.levels"].to_list() == [None, 8]
    fedsim.run(experiment("rounds=1"), "without/c")
    assert [name for name in fedsim.load_runs("without/*").columns if "transforms" in name] == []
