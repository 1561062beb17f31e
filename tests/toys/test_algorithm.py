"""A user's own algorithm, named in the experiment file: on both engines, resumed, as its paper says; wrong ones are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import fedsim
from fedsim import Experiment, Refused, RunFailed
from fedsim.algorithms import Algorithm, Arrays, Field, Job
from fedsim.data import prepare
from fedsim.models import initial_model
from fedsim.privacy.cohorts.sampling import draw
from fedsim.streams import numpy_stream
from tests.fedsim.deployment.client.test_admission import admitted
from tests.support.fields import client_states, distance, server_state
from tests.support.runs import bits
from tests.support.stopping import stopped
from tests.support.tasks import task_of, tensors

OWN = """
rounds = 4
[data]
clients = 9
partition = "dirichlet"
[model]
name = "linear"
[algorithm]
name = "tests.toys.own_algorithm:FedCM"
alpha = 0.2
[client]
learning-rate = 0.2
batch-size = 32
[server]
cohort = 3
weighting = "uniform"
[runtime]
engine = "sequential"
"""
HERE = "tests.toys.test_algorithm"


def setting(*overrides: str) -> Experiment:
    return Experiment.from_toml(OWN, overrides)


def by_hand(experiment: Experiment) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model and the mean gradient of FedCM with whole batches, in float64."""
    data, alpha, rate = prepare(experiment), 0.2, experiment.client.learning_rate
    model = initial_model(experiment, task_of(experiment)).double()
    x = {name: p.detach().clone() for name, p in model.named_parameters()}
    delta = {name: torch.zeros_like(v) for name, v in x.items()}
    for round_ in range(1, experiment.rounds + 1):
        stream = numpy_stream(experiment.seed, "cohort", round_=round_)
        moved = {name: torch.zeros_like(v) for name, v in x.items()}
        for client in draw("fixed", 3, data.clients, stream):
            inputs, labels = tensors(data, data.client(client).train)
            y = dict(x)
            for _ in range(experiment.client.epochs):
                at = {name: v.clone().requires_grad_() for name, v in y.items()}
                outputs = torch.func.functional_call(model, at, (inputs.double(),))
                loss = torch.nn.functional.cross_entropy(outputs, labels)
                gradients = dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True))
                y = {n: y[n] - rate * (alpha * gradients[n] + (1 - alpha) * delta[n]) for n in y}
            moved = {n: moved[n] + (y[n] - x[n]) / 3 for n in x}
        delta = {n: -moved[n] / (rate * experiment.client.epochs) for n in x}
        x = {n: x[n] - rate * experiment.client.epochs * delta[n] for n in x}
    return {n: v.numpy() for n, v in x.items()}, {n: v.numpy() for n, v in delta.items()}


def test_it_is_the_algorithm_of_its_paper() -> None:
    whole = ("client.batch-size=2000", "client.epochs=3", "data.min-size=5")
    run = fedsim.run(setting(*whole), "run")
    model, delta = by_hand(setting(*whole))
    assert distance(load_file(run.path / "model.safetensors"), model) < 1e-5
    assert distance(server_state(run.path)["values"]["momentum"], delta) < 1e-5
    plain = fedsim.run(setting(*whole, "algorithm={name='fedavg'}"), "plain")
    assert distance(load_file(plain.path / "model.safetensors"), model) > 1e-2  # the control


@pytest.mark.slow
def test_it_has_the_same_bits_on_both_engines_and_resumed() -> None:
    run = fedsim.run(setting(), "sequential")
    assert bits(fedsim.run(setting("runtime.engine=local", "runtime.workers=2"), "local")) == bits(run)
    assert bits(fedsim.resume(stopped(setting(), "cut"))) == bits(run)
    assert bits(fedsim.run(setting("algorithm.alpha=0.3"), "other"))[0] != bits(run)[0]
    assert "tests" in run.manifest["modules"]


def test_its_options_come_back_from_the_runs_own_file() -> None:
    assert setting().algorithm_options == {"alpha": 0.2}
    assert Experiment.from_toml(setting().to_toml()) == setting()
    assert setting("algorithm={name='scaffold'}").algorithm_options == {"control-scale": 1.0}


def test_a_client_that_is_free_to_choose_calls_no_code_of_the_operators() -> None:
    with pytest.raises(ValueError, match=r"^algorithm.name = 'tests.*FedCM' is a function of the caller's"):
        admitted(experiment=setting().to_toml())
    assert admitted([setting()], experiment=setting().to_toml()).experiment == setting()


# --- wrong ones -----------------------------------------------------------------------------------------------


class Still(Algorithm):
    """A field of zeros, which training leaves as it is; the others change one thing of it."""

    fields: Mapping[str, Field] = {"still": Field()}

    def init(self, parameters: Arrays) -> Any:
        return {"still": {name: np.zeros_like(values) for name, values in parameters.items()}}

    def train(self, job: Job) -> Any:
        job.train()
        return {"still": dict(job.fields["still"])}


def with_fields(fields: Any) -> type[Still]:
    return type("Odd", (Still,), {"fields": fields})


def with_init(value: Any) -> type[Still]:
    return type("Odd", (Still,), {"init": lambda self, parameters: value})


def with_train(change: Any) -> type[Still]:
    def train(self: Still, job: Job) -> Any:
        return change(Still.train(self, job))

    return type("Odd", (Still,), {"train": train})


def with_update(change: Any) -> type[Still]:
    return type("Odd", (Still,), {"update": lambda self, fields, mean, share: change(fields)})


def mapped(change: Any) -> Any:
    """Return what changes each array of the field."""
    return lambda fields: {"still": {name: change(a) for name, a in fields["still"].items()}}


Arrayed = with_fields({"arrays": Field()})
Slashed = with_fields({"a/b": Field()})
Unnamed = with_fields({"": Field()})
Numbered = with_fields({1: Field()})
Listed = with_fields(["still"])
Bare = with_fields({"still": 1.0})
Weightless = with_fields({"still": Field(scale=0)})
Endless = with_fields({"still": Field(scale=float("inf"))})
Wordy = with_fields({"still": Field(scale="1")})  # type: ignore[arg-type]
Twice = with_fields({"still": Field(), "more": Field()})
NoDict = with_init(None)
NoArrays = with_init({"still": np.zeros(3)})
NoArray = with_init({"still": {"a": 0.0}})
Whole = with_init({"still": {"a": np.zeros(3, int)}})
Lost = with_init({"still": {"a": np.array([np.nan])}})


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nowhere:X", "algorithm.name = 'nowhere:X': 'nowhere:X' can't be loaded: No module named 'nowhere'"),
        (
            "os:getcwd",
            "algorithm.name = 'os:getcwd': is a builtin_function_or_method; a fedsim.algorithms.Algorithm is needed: a subclass",
        ),
        ("os:sep", "algorithm.name = 'os:sep': is a str; a fedsim.algorithms.Algorithm is needed"),
        ("fedsim.algorithms:Algorithm", "Can't instantiate abstract class Algorithm"),
        ("sacffold", "algorithm.name = 'sacffold': there is no such name; allowed: fedavg, scaffold, or"),
        (f"{HERE}:Arrayed", "Arrayed': field 'arrays' = Field(scale=1.0, kept=False): must be"),
        (f"{HERE}:Slashed", "field 'a/b' = "),
        (f"{HERE}:Unnamed", "field '' = "),
        (f"{HERE}:Numbered", "field 1 = "),
        (f"{HERE}:Listed", "fields is list; a dict is needed, of Field by name"),
        (f"{HERE}:Bare", "field 'still' = 1.0: must be a fedsim.algorithms.Field of a scale above 0"),
        (f"{HERE}:Weightless", "field 'still' = Field(scale=0, kept=False)"),
        (f"{HERE}:Endless", "field 'still' = Field(scale=inf, kept=False)"),
        (f"{HERE}:Wordy", "field 'still' = Field(scale='1', kept=False)"),
        (f"{HERE}:Twice", "init(): must return a value of each of its fields, and of no other: more"),
        (f"{HERE}:NoDict", "init(): must return a dict of fields, each a dict of arrays"),
        (f"{HERE}:NoArrays", "init(): must return a dict of fields, each a dict of arrays"),
        (f"{HERE}:NoArray", "init(): field 'still': a is float; a NumPy array of floating-point numbers"),
        (f"{HERE}:Whole", "init(): field 'still': a is int64; a NumPy array of floating-point numbers"),
        (f"{HERE}:Lost", "init(): field 'still': a holds NaN or infinity"),
    ],
)
def test_an_algorithm_that_is_none_is_refused_in_one_line(name: str, line: str) -> None:
    with pytest.raises(Refused) as raised:
        fedsim.run(Experiment.from_toml(OWN.replace("alpha = 0.2\n", ""), [f"algorithm.name={name}"]), "run")
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("algorithm.beta=1", "FedCM': FedCM.__init__() got an unexpected keyword argument 'beta'"),
        ("algorithm.alpha=2", "FedCM': alpha = 2: must be above 0, at most 1"),
        ("server.strategy=krum", "server.strategy = 'krum': needs each client's model"),
        ("algorithm={alpha=0.1}", "algorithm.name is missing"),
        ("algorithm=fedavg", "algorithm = 'fedavg': must be a table"),
    ],
)
def test_wrong_options_are_refused_in_one_line(override: str, line: str) -> None:
    with pytest.raises(Refused) as raised:
        fedsim.run(setting(override), "run")
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


class Again(Still):
    def train(self, job: Job) -> Any:
        job.train()
        return super().train(job)


class Idle(Still):
    def train(self, job: Job) -> Any:
        return {"still": dict(job.fields["still"])}


Silent = with_train(lambda changes: {})
Model = with_train(lambda changes: {**changes, "arrays": changes["still"]})
Other = with_train(lambda changes: {"still": {"x": np.zeros(2, np.float32)}})
Wide = with_train(mapped(lambda a: a.astype(float)))
Flat = with_train(mapped(np.ravel))
Tensors = with_train(mapped(torch.tensor))
Infinite = with_train(mapped(lambda a: a + np.inf))
Emptied = with_update(lambda fields: {})
Nothing = with_update(lambda fields: None)
Flattened = with_update(mapped(np.ravel))
Undefined = with_update(mapped(lambda a: a * np.nan))


@pytest.mark.parametrize(
    ("name", "saying"),
    [
        ("Silent", "ValueError: algorithm Odd: train(): field 'still' is missing"),
        ("Model", "ValueError: algorithm Odd: train(): field 'arrays' is unknown"),
        ("Other", "train(): field 'still': array '1.weight' is missing"),
        (
            "Wide",
            "train(): field 'still': 1.weight is float64 of shape (10, 64); float32 of shape (10, 64) is",
        ),
        ("Flat", "train(): field 'still': 1.weight is float32 of shape (640,); float32 of shape (10, 64) is"),
        ("Tensors", "train(): field 'still': 1.weight is torch.float32 of shape (10, 64); float32"),
        ("Infinite", "sent NaN or infinity in 1.weight"),
        ("Idle", "algorithm Idle: train() has not called job.train()"),
        ("Again", "ValueError: all steps of this training have been taken"),
        ("Emptied", "round 1: algorithm Odd: update(): field 'still' is missing"),
        ("Nothing", "round 1: algorithm Odd: update(): TypeError: "),
        ("Flattened", "round 1: algorithm Odd: update(): field 'still': 1.weight is float32 of shape (640,)"),
        ("Undefined", "round 1: diverged: 1.weight of the algorithm's field 'still' is not finite"),
    ],
)
def test_what_it_makes_of_its_fields_is_checked(name: str, saying: str) -> None:
    with pytest.raises(RunFailed) as raised:
        fedsim.run(setting(f"algorithm={{name='{HERE}:{name}'}}"), "run")
    assert saying in str(raised.value)
    assert "\n" not in str(raised.value)


class Meddler(Still):
    def train(self, job: Job) -> Any:
        for values in job.fields["still"].values():
            values += 1  # which would be everybody's, on an engine without processes
        return super().train(job)


@pytest.mark.parametrize("engine", ["sequential", pytest.param("local", marks=pytest.mark.slow)])
def test_what_the_server_sent_is_to_be_read_only(engine: str) -> None:
    with pytest.raises(RunFailed, match="read-only"):
        fedsim.run(setting(f"algorithm={{name='{HERE}:Meddler'}}", f"runtime.engine={engine}"), "run")


class Lender(Still):
    """Keeps the model that each client has last trained, and returns views of the one in training everywhere."""

    fields: Mapping[str, Field] = {"still": Field(kept=True)}

    def init(self, parameters: Arrays) -> Any:
        return {"still": parameters}

    def train(self, job: Job) -> Any:
        job.train()
        for name, parameter in job.parameters.items():
            parameter.detach().sub_(
                torch.tensor(job.own["still"][name])
            )  # the model itself is of no interest
        return {"still": {name: p.detach().numpy() for name, p in job.parameters.items()}}


@pytest.mark.slow
def test_views_of_the_model_do_not_follow_its_training() -> None:
    engines = ("sequential", "local")
    runs = [
        fedsim.run(setting(f"algorithm={{name='{HERE}:Lender'}}", f"runtime.engine={engine}"), engine)
        for engine in engines
    ]
    assert bits(runs[0]) == bits(runs[1])
    assert client_states(runs[0].path) == client_states(runs[1].path) != {}
    start = {
        n: p.detach().numpy() for n, p in initial_model(setting(), task_of(setting())).named_parameters()
    }
    assert (
        distance(server_state(runs[0].path)["values"]["still"], start) == 0
    )  # no update() of its own: as init() says
