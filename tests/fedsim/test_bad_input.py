"""Bad input, as a table: one clear line, exit code 2, nothing written."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedsim.cli import app

NPZ = "[data]\nsource = 'npz'\npath = 'data.npz'\nclients = 2\npartition = 'iid'\n[server]\ncohort = 2\n[model]\nname = 'linear'"
TEXT = "[data]\nsource = 'text-json'\npath = 'texts.json'\npartition = 'natural'\n[model]\nname = 'lstm'\n[server]\ncohort = 1"


def arrays(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    usual = {
        "x_train": np.zeros((8, 3)),
        "y_train": np.arange(8) % 2,
        "x_test": np.zeros((4, 3)),
        "y_test": np.arange(4) % 2,
    }
    return {name: array for name, array in (usual | changes).items() if array is not None}


SECAGG = "[privacy.secagg]\n"
DP = "[privacy.dp-sgd]\ndelta = 1e-5\nnoise-multiplier = 1.0\n"

# What the file says, overrides, and what the line must say.
SAYINGS = [
    ("not TOML", "rounds = ", [], "not valid TOML"),
    ("unknown section", "[modle]\nname = 'cnn'", [], "modle = a table: is no key here; allowed: algorithm, client, data"),
    ("unknown key", "[client]\nepoch = 3", [], "client.epoch = 3: is no key here; allowed: batch-size, epochs"),
    ("unknown option", "[data]\nalpah = 3", [], "data.alpah = 3: is no key here with 'digits', 'dirichlet'; allowed: alpha"),
    ("option of another partition", "[data]\npartition = 'iid'\nalpha = 1.0", [], "data.alpha = 1.0: is no key here"),
    ("unknown source", "[data]\nsource = 'mnist'", [], "data.source = 'mnist': there is no such name; allowed: digits"),
    ("unknown partition", "[data]\npartition = 'x'", [], "data.partition = 'x': there is no such name; allowed: iid"),
    ("unknown model", "[model]\nname = 'rnn'", [], "model.name = 'rnn': there is no such name; allowed: linear"),
    ("missing module", "[model]\nname = 'no_such_module:build'", [], "'no_such_module:build' can't be loaded"),
    ("unknown strategy", "[server]\nstrategy = 'x'", [], "server.strategy = 'x': there is no such name; allowed: fedavg"),
    ("exit as a strategy", "[server]\nstrategy = 'sys:exit'", [], "server.strategy = 'sys:exit': is a builtin_function_or_method; a flwr"),
    ("shell as a model", "[model]\nname = 'os:system'\ncommand = 'touch bad.toml.run'", [], "model.name = 'os:system': is a builtin_function_or_method"),
    ("missing strategy", "[server]\nstrategy = 'os.path:nothing'", [], "'os.path:nothing' can't be loaded"),
    ("no strategy", "[server]\nstrategy = 'builtins:dict'", [], "a flwr.serverapp.strategy.Strategy is needed"),
    ("unknown strategy option", "[server.options]\nmu = 1", [], "server.options.mu = 1: is no key here"),
    ("section that is a value", "client = 3", [], "client = 3: must be a table"),
    ("wrong type", "rounds = 'ten'", [], "rounds = 'ten': must be a valid integer"),
    ("wrong type in an option", "[model]\nwidth = true", [], "model.width = true: must be a valid number"),
    ("float for a count", "[client]\nepochs = 1.5", [], "client.epochs = 1.5: must be a valid integer"),
    ("zero rounds", "rounds = 0", [], "rounds = 0: must be greater than or equal to 1"),
    ("negative rate", "[client]\nlearning-rate = -0.1", [], "client.learning-rate = -0.1: must be greater than 0"),
    ("infinite rate", "[client]\nlearning-rate = inf", [], "client.learning-rate = inf: must be a finite number"),
    ("unknown optimizer", "[client]\noptimizer = 'adagrad'", [], "client.optimizer = 'adagrad': there is no such name; allowed: sgd, adam, adamw, or \"module:callable\""),
    ("momentum of Adam", "[client]\noptimizer = 'adam'\nmomentum = 0.9", [], "client.momentum = 0.9: is for optimizer sgd, not 'adam'"),
    ("weight decay of one's own", "[client]\noptimizer = 'torch.optim:Adagrad'\nweight-decay = 0.1", [], "client.weight-decay = 0.1: is for optimizer sgd, adam, adamw, not 'torch.optim:Adagrad'"),
    ("optimizer that is a number", "[client]\noptimizer = 3", [], "client.optimizer = 3: must be a valid string"),
    ("option of no optimizer", "[client.optimizer-options]\nbeta-1 = 0.9", [], "client.optimizer-options.beta-1 = 0.9: is no key here with 'sgd'; allowed: none"),
    ("unknown option of Adam", "[client]\noptimizer = 'adam'", ["client.optimizer-options.beta=0.9"], "client.optimizer-options.beta = 0.9: is no key here with 'adam'; allowed: beta-1, beta-2, eps"),
    ("decay of nothing", "[client]\noptimizer = 'adam'", ["client.optimizer-options.beta-1=1.0"], "client.optimizer-options.beta-1 = 1.0: must be less than 1"),
    ("options that are a value", "[client]\noptimizer = 'adam'\noptimizer-options = 3", [], "client.optimizer-options = 3: must be a table"),
    ("optimizer with a closure", "[client]\noptimizer = 'torch.optim:LBFGS'", [], "client.optimizer = 'torch.optim:LBFGS': step(): "),
    ("no optimizer", "[client]\noptimizer = 'collections:UserList'\n[client.optimizer-options]\nlr = 1.0", [], "client.optimizer = 'collections:UserList': "),
    ("missing optimizer", "[client]\noptimizer = 'os.path:nothing'", [], "'os.path:nothing' can't be loaded"),
    ("unknown schedule", "[client]\nschedule = 'linear'", [], "client.schedule = 'linear': there is no such name; allowed: constant, exponential, step, cosine, or"),
    ("steps without a length", "[client]\nschedule = 'step'", [], "client.schedule-options.every = None: must be set"),
    ("decay of cosine", "[client]\nschedule = 'cosine'\nlearning-rate-decay = 0.9", [], "client.learning-rate-decay = 0.9: is for schedule exponential, not 'cosine'"),
    ("exponential without decay", "[client]\nschedule = 'exponential'", [], "client.schedule = 'exponential': needs learning-rate-decay below 1"),
    ("floor above 1", "[client]\nschedule = 'cosine'\nschedule-options = {floor = 1.5}", [], "client.schedule-options.floor = 1.5: must be less than or equal to 1"),
    ("no warm-up", "[client]\nwarmup-rounds = 0", [], "client.warmup-rounds = 0: must be greater than or equal to 1"),
    ("all warm-up", "rounds = 3\n[client]\nwarmup-rounds = 3", [], "client.warmup-rounds = 3: must be below rounds = 3"),
    ("schedule of something else", "[client]\nschedule = 'math:sqrt'", [], "client.schedule = 'math:sqrt': "),
    ("alpha 0", "[data]\nalpha = 0.0", [], "data.alpha = 0.0: must be greater than 0"),
    ("batch size 0", "[client]\nbatch-size = 0", [], "client.batch-size = 0: must be greater than or equal to 1"),
    ("cohort above clients", "[server]\ncohort = 51", [], "server.cohort = 51: must be at most data.clients = 50"),
    ("cohort above users", "[data]\nsource = 'synthetic'\npartition = 'natural'\n[model]\nname = 'linear'\n[server]\ncohort = 31", [], "server.cohort = 31: must be at most the 30 clients"),
    ("more clients than users", "[data]\nsource = 'synthetic'\npartition = 'natural'\nclients = 31\n[model]\nname = 'linear'", [], "data.clients = 31: data.partition = 'natural' has 30 users"),
    ("Krum's bound", "[server]\nstrategy = 'krum'\ncohort = 6\n[server.options]\nnum-malicious-nodes = 2", [], "server.cohort = 6: must be at least 7 for krum"),
    ("Bulyan's bound", "[server]\nstrategy = 'bulyan'\n[server.options]\nnum-malicious-nodes = 2", [], "server.cohort = 10: must be at least 11 for bulyan"),
    ("Krum by coins", "[server]\nstrategy = 'krum'\nsampling = 'poisson'", [], "server.sampling = 'poisson': can't guarantee the"),
    ("empty client", "[data]\npartition = 'size'\nsizes = [1438, 0]\n[server]\ncohort = 1", [], "data.sizes.1 = 0: must be greater than or equal to 1"),
    ("sizes too steep for all clients", "[data]\npartition = 'square'", [], "data.partition = 'square' can't deal 1438 examples to 50 clients"),
    ("partition that can't fill all clients", "[data]\nalpha = 0.001", [], "data.partition = 'dirichlet' can't deal 1438 examples to 50 clients"),
    ("more clients than examples", "[data]\npartition = 'iid'\nclients = 1439", [], "data.clients = 1439: must be at most the 1438 training examples"),
    ("sizes that leave examples over", "[data]\npartition = 'size'\nsizes = [700, 700]\n[server]\ncohort = 1", [], "leaves 38 of 1438 examples to no client"),
    ("one size too few", "[data]\npartition = 'size'\nsizes = [700]\nclients = 2\n[server]\ncohort = 1", [], "must be one size for each of the 2 clients"),
    ("users that aren't there", "[data]\npartition = 'natural'", [], "data.partition = 'natural': needs a source whose examples belong to users"),
    (
        "clients that groups decide",
        "[data]\nsource = 'synthetic'\npartition = 'grouped-natural'\nclients = 4\n[model]\nname = 'linear'",
        [],
        "data.clients = 4: is not for grouped-natural, which uses group-size",
    ),
    ("labels that aren't there", "[data]\nsource = 'stdlib'\n[model]\nname = 'lstm'", [], "goes by label, and next-character text has none"),
    ("text for an image model", TEXT.replace("lstm", "cnn"), [], "model.name = 'cnn': is for image, and the data is text"),
    ("image for a text model", "[model]\nname = 'lstm'", [], "model.name = 'lstm': is for text, and the data is image"),
    ("label outside the classes", "[model]\nclasses = 5", [], "model.classes = 5: the data has the label 9"),
    ("client evaluation of nothing", "[server]\nclient-evaluation = 'all'", [], "server.client-evaluation = 'all': needs data.held-out above 0"),
    ("chance above 1", "[faults]\ndropout = 1.5", [], "faults.dropout = 1.5: must be less than or equal to 1"),
    ("chance below 0", "[faults]\nnan = -0.1", [], "faults.nan = -0.1: must be greater than or equal to 0"),
    ("chance in percent", "[faults]\ncrash = '5%'", [], "faults.crash = '5%': must be a valid number"),
    ("unknown fault", "[faults]\ndrop-out = 0.1", [], "faults.drop-out = 0.1: is no key here; allowed: crash, deadline, delay, dropout, nan, straggler"),
    ("faults above 1", "[faults]\ndropout = 0.7\ncrash = 0.2\nnan = 0.2", [], "faults.dropout + crash + nan + straggler = 1.1: must be at most 1"),
    ("straggler without times", "[faults]\nstraggler = 0.1", [], "faults.straggler = 0.1: needs faults.delay and faults.deadline"),
    ("straggler without deadline", "[faults]\nstraggler = 0.1\ndelay = 3.0", [], "faults.straggler = 0.1: needs faults.deadline"),
    ("deadline without delay", "[faults]\ndeadline = 3.0", [], "faults.deadline = 3.0: needs faults.delay"),
    ("delay 0", "[faults]\nstraggler = 0.1\ndelay = 0.0\ndeadline = 1.0", [], "faults.delay = 0.0: must be greater than 0"),
    ("infinite deadline", "[faults]\nstraggler = 0.1\ndelay = 1.0\ndeadline = inf", [], "faults.deadline = inf: must be a finite number"),
    ("faults that are a value", "faults = 0.1", [], "faults = 0.1: must be a table"),
    ("no mechanism", "[privacy.distributed-dp]", [], "privacy.distributed-dp = a table: is no key here; allowed: arithmetic, dp-fedavg, dp-ftrl, dp-sgd, local-dp, noise, own, secagg"),
    ("Krum by sums", SECAGG + "[server]\nstrategy = 'krum'", [], "server.strategy = 'krum': needs each client's update, and secure aggregation shows only their sum; allowed: fedavg, fedavgm"),
    ("median by sums", SECAGG + "[server]\nstrategy = 'fedmedian'", [], "server.strategy = 'fedmedian': needs each client's update"),
    ("trimmed mean by sums", SECAGG + "[server]\nstrategy = 'fedtrimmedavg'", [], "server.strategy = 'fedtrimmedavg': needs each client's update"),
    ("Bulyan by sums", SECAGG + "[server]\nstrategy = 'bulyan'\ncohort = 11", [], "server.strategy = 'bulyan': needs each client's update"),
    ("losses by sums", SECAGG + "[server]\nstrategy = 'qfedavg'", [], "server.strategy = 'qfedavg': needs each client's update"),
    ("a user's own strategy by sums", SECAGG + "[server]\nstrategy = 'tests.support.strategies:Kept'", [], "server.strategy = 'tests.support.strategies:Kept': needs each client's update"),
    ("clients' losses in clear", SECAGG + "[data]\nheld-out = 0.1", ["server.client-evaluation=all"], "server.client-evaluation = 'all': clients would send their losses"),
    ("a cohort under the minimum", SECAGG, ["server.cohort=4", "privacy.secagg.minimum=5"], "server.cohort = 4: for privacy.secagg: a cohort of 4: must be from 5 to"),
    ("too many dropouts for any threshold", SECAGG, ["privacy.secagg.dropout=0.9"], "server.cohort = 10: for privacy.secagg: a cohort of 10 with corrupt = 0.1 (1) and dropout = 0.9 (9), semi-honest: the threshold must be 2 or more"),
    ("a threshold that the adversary forbids", SECAGG + "adversary = 'malicious-server'", ["privacy.secagg.dropout=0.5"], "server.cohort = 10: for privacy.secagg: a cohort of 10 with corrupt = 0.1 (1) and dropout = 0.5 (5), malicious-server: the threshold must be 6 or more, and only 5"),
    ("a sparse graph of few", SECAGG + "graph = 'k-regular'", [], "server.cohort = 10: for privacy.secagg: a k-regular graph of 10 clients"),
    ("a sum over one", SECAGG + "minimum = 1", [], "privacy.secagg.minimum = 1: must be greater than or equal to 2"),
    ("a clip of nothing", SECAGG + "clip = 0.0", [], "privacy.secagg.clip = 0.0: must be greater than or equal to 0.0000"),
    ("a modulus too small", SECAGG + "input-bits = 1", [], "privacy.secagg.input-bits = 1: must be greater than or equal to 2"),
    ("all corrupt", SECAGG + "corrupt = 1.0", [], "privacy.secagg.corrupt = 1.0: must be less than 1"),
    ("a weight above the largest", SECAGG + "max-weight = 3", [], "privacy.secagg.max-weight = 3: must be at least 71, the most examples of a client"),
    ("a largest weight of equals", SECAGG + "max-weight = 3", ["server.weighting=uniform"], "privacy.secagg.max-weight = 3: is for server.weighting = 'examples'"),
    ("an unknown adversary", SECAGG + "adversary = 'evil'", [], "privacy.secagg.adversary = 'evil': must be 'semi-honest' or 'malicious-server'"),
    ("an unknown mode", SECAGG + "mode = 'fake'", [], "privacy.secagg.mode = 'fake': must be 'real' or 'ideal'"),
    ("unknown mechanism", "[privacy.dpsgd]", [], "privacy.dpsgd = a table: is no key here; allowed: arithmetic, dp-fedavg, dp-ftrl, dp-sgd, local-dp, noise, own, secagg"),
    ("unknown privacy key", DP + "sigma = 1.0", [], "privacy.dp-sgd.sigma = 1.0: is no key here; allowed: adversary, clip"),
    ("epsilon and noise", DP + "epsilon = 1.0", [], "privacy.dp-sgd.noise-multiplier = 1.0: can't stand beside epsilon"),
    ("neither epsilon nor noise", "[privacy.dp-sgd]\ndelta = 1e-5", [], "privacy.dp-sgd.epsilon = None: this or noise-multiplier must be set"),
    ("no delta", "[privacy.dp-sgd]\nepsilon = 1.0", [], "privacy.dp-sgd.delta is missing"),
    ("delta that publishes a record", DP, ["privacy.dp-sgd.delta=0.0007"], "privacy.dp-sgd.delta = 0.0007: must be below 1 / (all records) = 1 / 1438"),
    ("clip 0", DP + "clip = 0.0", [], "privacy.dp-sgd.clip = 0.0: must be greater than or equal to 0.000000000001"),
    ("batch norm", DP + "[model]\nname = 'tests.support.models:batch_normed'", [], "model.name = 'tests.support.models:batch_normed': 1 (BatchNorm1d)"),
    ("released models of a fixed cohort", DP + "adversary = 'released-models'", [], "privacy.dp-sgd.adversary = 'released-models': needs server.sampling = 'poisson', not 'fixed'"),
    ("released models with a budget", DP + "adversary = 'released-models'\nmax-participations = 3", ["server.sampling=poisson"], "privacy.dp-sgd.max-participations = 3: a client that stops after a budget"),
    ("weights by examples under add or remove", DP + "relation = 'add-or-remove-one'\nrate = 0.1", ["client.steps=5"], "privacy.dp-sgd.relation = 'add-or-remove-one': needs server.weighting = 'uniform'"),
    ("add or remove without a public rate", DP + "relation = 'add-or-remove-one'", ["client.steps=5"], "privacy.dp-sgd.relation = 'add-or-remove-one': needs a public rate"),
    ("cut batches under add or remove", DP + "relation = 'add-or-remove-one'\nrate = 0.1\nmax-batch = 20", ["client.steps=5", "server.weighting=uniform"], "privacy.dp-sgd.max-batch = 20: truncated batches depend on the number of records"),
    ("a rate without steps", DP + "rate = 0.1", [], "privacy.dp-sgd.rate = 0.1: needs client.steps"),
    ("losses without noise", DP + "[server]\nstrategy = 'qfedavg'", [], "server.strategy = 'qfedavg': uses its clients' losses, which are sent without noise"),
    ("compiled without a shape", DP + "kernel = 'compiled'", [], "privacy.dp-sgd.kernel = 'compiled': needs max-batch"),
    ("noise of nobody", "[privacy]\nnoise = 'os'", [], "privacy.noise = 'os': there is no mechanism that adds noise"),
    ("real noise that low bits undo", "[privacy]\nnoise = 'os'\narithmetic = 'float32'\n" + DP, [], "privacy.arithmetic = 'float32': low bits of floating-point sums would reveal the values before noise; allowed with privacy.noise = 'os': grid"),
    ("arithmetic of nothing", "[privacy]\narithmetic = 'float32'", [], "privacy.arithmetic = 'float32': there is no mechanism that adds noise; allowed: grid"),
    ("clients' losses and real noise", "[data]\nheld-out = 0.1\n[privacy]\nnoise = 'os'\n" + DP, ["server.client-evaluation=all"], "privacy.noise = 'os': sends no losses of clients"),
    ("a protected number that is sent", "[privacy]\nnoise = 'os'\n" + DP + "relation = 'add-or-remove-one'\nrate = 0.1", ["client.steps=5", "server.weighting=uniform"], "privacy.noise = 'os': clients send their number of records"),
    ("noise beyond all numbers", "[privacy.dp-fedavg]\nnoise-multiplier = 1e308\ndelta = 1e-3\nclip = 1.0", [], "privacy.dp-fedavg.noise-multiplier = 1e+308: must be less than or equal to"),
    ("a clip of next to nothing", "[privacy.dp-sgd]\nnoise-multiplier = 1.0\ndelta = 1e-5\nclip = 1e-320", [], "privacy.dp-sgd.clip = 1e-320: must be greater than or equal to"),
    ("a rate beyond float32", "[client]\nlearning-rate = 1e308", [], "client.learning-rate = 1e+308: must be less than or equal to"),
    ("an epsilon out of reach", "[privacy.dp-sgd]\nepsilon = 1e-7\ndelta = 1e-12", [], "privacy.dp-sgd.epsilon = 1e-07: "),
    ("override without value", "", ["rounds"], "override 'rounds': must be section.key=value"),
    ("override of a value's key", "rounds = 3", ["rounds.x=1"], "override rounds.x: rounds is a value, not a table"),
    ("two overrides of one key", "", ["rounds=3", "rounds=4"], "override rounds: is given twice, as 3 and 4"),
    ("name that is a path", "name = '../x'", [], "name = '../x': String should match pattern"),
    ("no path", "[data]\nsource = 'npz'", [], "data.path is missing"),
    ("missing npz", NPZ.replace("data.npz", "none.npz"), [], "none.npz': No such file or directory"),
    ("npz that is none", NPZ.replace("data.npz", "texts.json"), [], "is not a NumPy .npz file"),
    ("text that is no JSON", TEXT.replace("texts.json", "data.npz"), [], "is not JSON in UTF-8"),
    ("text without users", TEXT, ["data.min-characters=100000"], "has 0 users with at least 100000 characters"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **arrays())
    (tmp_path / "texts.json").write_text('{"a": ["' + "ab" * 600 + '"], "b": ["' + "ba" * 600 + '"]}')


def refusal(folder: Path, *arguments: str) -> str:
    """Run `fedsim run` and return its one line; nothing may have been written."""
    before = sorted(folder.rglob("*"))
    result = CliRunner().invoke(app, ["run", *arguments])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert sorted(folder.rglob("*")) == before
    return result.stderr


@pytest.mark.parametrize(
    ("text", "overrides", "saying"), [s[1:] for s in SAYINGS], ids=[s[0] for s in SAYINGS]
)
def test_a_bad_experiment(tmp_path: Path, text: str, overrides: list[str], saying: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    sets = [part for override in [*overrides, "runtime.engine=sequential"] for part in ("--set", override)]
    assert saying in refusal(tmp_path, "bad.toml", *sets)


def test_a_missing_file(tmp_path: Path) -> None:
    assert "experiment file 'none.toml': No such file or directory" in refusal(tmp_path, "none.toml")


def test_a_sweep_file(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('[sweep]\nname = "s"\n')
    said = "fedsim: s.toml: is a sweep file, with a table [sweep]; run it with fedsim sweep s.toml\n"
    assert refusal(tmp_path, "s.toml", "--set", "rounds=3") == said


def test_a_folder_for_a_file(tmp_path: Path) -> None:
    assert "has no pyproject.toml" in refusal(tmp_path, str(tmp_path))


class Pickled:
    pass


@pytest.mark.parametrize(
    ("changes", "saying"),
    [
        ({"y_test": None}, "has no y_test; needed are x_train, y_train, x_test, y_test"),
        ({"y_train": np.arange(7)}, "x_train has shape (8, 3) and y_train has (7,)"),
        ({"x_train": np.full((8, 3), np.nan)}, "x_train: holds NaN or infinity"),
        (
            {"x_test": np.zeros((4, 5))},
            "x_train holds float64 (3,) and x_test float64 (5,); they must be alike",
        ),
        ({"y_train": np.array([Pickled()] * 8)}, "holds pickled objects, which are never loaded"),
        ({"y_train": np.arange(8) - 1}, "y_train: holds the label -1"),
        ({"y_train": np.arange(8) / 2}, "y_train: holds fractions"),
        ({"x_train": np.zeros((0, 3)), "y_train": np.zeros(0, int)}, "x_train is empty"),
        ({"x_train": np.zeros((8, 3, 3, 3, 3))}, "features (2 axes) or images (3 or 4 axes) are needed"),
        ({"x_train": np.full((8, 3), "a")}, "x_train: has dtype <U1; numbers are needed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_npz(tmp_path: Path, changes: dict[str, np.ndarray | None], saying: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays(**changes))
    (tmp_path / "bad.toml").write_text(NPZ)
    assert saying in refusal(tmp_path, "bad.toml")


def test_an_out_that_exists(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("rounds = 1")
    (tmp_path / "taken").mkdir()
    assert "--out '" in refusal(tmp_path, "a.toml", "--out", "taken")
    assert "exists; a new directory is needed" in refusal(tmp_path, "a.toml", "--out", "taken")


def test_an_out_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("rounds = 1")
    assert "can't be written to" in refusal(tmp_path, "a.toml", "--out", "a.toml/run")
