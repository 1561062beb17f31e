"""Output of commands: budgets, comparisons, lists, and refusals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fedsim.experiments.golden.case import FILE, Case, cli, toml
from fedsim.experiments.golden.matrix import MECHANISMS

BUDGETS: Mapping[str, str] = {
    "dp-sgd/noise": "dp-sgd --noise-multiplier 1 --rate 0.1 --steps 4 --delta 1e-5 --rounds 10 --client-rate 0.5",
    "dp-sgd/epsilon": "dp-sgd --epsilon 4 --rate 0.1 --steps 4 --delta 1e-5 --rounds 10",
    "dp-sgd/released": "dp-sgd --epsilon 4 --rate 0.1 --steps 2 --delta 1e-5 --rounds 5 --client-rate 0.2 "
    "--adversary released-models",
    "dp-sgd/max-batch": "dp-sgd --noise-multiplier 1 --rate 0.1 --steps 4 --delta 1e-5 --max-batch 20 --records 100",
    "dp-sgd/participations": "dp-sgd --noise-multiplier 1 --rate 0.1 --steps 4 --delta 1e-5 --rounds 10 "
    "--client-rate 0.5 --max-participations 3",
    "dp-fedavg/noise": "dp-fedavg --noise-multiplier 1 --rounds 10 --delta 1e-5 --clients 1000 --cohort 100",
    "dp-fedavg/epsilon": "dp-fedavg --epsilon 4 --rounds 10 --delta 1e-5 --client-rate 0.1",
    "dp-fedavg/fixed": "dp-fedavg --noise-multiplier 1 --rounds 10 --delta 1e-5 --clients 1000 --cohort 100 --sampling fixed",
    "dp-fedavg/truncated": "dp-fedavg --noise-multiplier 1 --rounds 10 --delta 1e-5 --clients 1000 --cohort 100 "
    "--sampling truncated-poisson --max-cohort 130",
    "dp-fedavg/add-or-remove-one": "dp-fedavg --noise-multiplier 1 --rounds 10 --delta 1e-5 --client-rate 0.1 "
    "--cohort 100 --relation add-or-remove-one",
    "dp-fedavg/participations": "dp-fedavg --epsilon 4 --rounds 10 --delta 1e-5 --participations 2",
    "dp-fedavg/population": "dp-fedavg --noise-multiplier 1 --rounds 10 --delta 1e-7 --clients 1000 --cohort 100 "
    "--population 1000000 5000",
    "dp-fedavg/mean-noise": "dp-fedavg --epsilon 4 --rounds 10 --delta 1e-5 --client-rate 0.1 --mean-noise 0.01",
    "local-dp/gaussian": "local-dp --epsilon 8 --rounds 5 --delta 1e-5",
    "local-dp/noise": "local-dp --noise-multiplier 2 --rounds 5 --participations 2 --delta 1e-5",
    "local-dp/laplace": "local-dp --epsilon 8 --rounds 5 --law laplace",
    "dp-ftrl/banded": "dp-ftrl --noise-multiplier 1 --rounds 16 --delta 1e-5 --min-separation 4",
    "dp-ftrl/epsilon": "dp-ftrl --epsilon 4 --rounds 16 --delta 1e-5 --min-separation 4 --bands 2",
    "dp-ftrl/blt": "dp-ftrl --noise-multiplier 1 --rounds 16 --delta 1e-5 --mechanism blt --buffers 2 --min-separation 4",
    "dp-ftrl/sqrt-toeplitz": "dp-ftrl --noise-multiplier 1 --rounds 16 --delta 1e-5 --mechanism sqrt-toeplitz",
    "dp-ftrl/amplified": "dp-ftrl --noise-multiplier 1 --rounds 16 --delta 1e-5 --min-separation 4 --client-rate 0.1",
    "refused/neither": "dp-sgd --rate 0.1 --steps 4 --delta 1e-5",
    "refused/both": "dp-fedavg --noise-multiplier 1 --epsilon 4 --rounds 10 --delta 1e-5 --client-rate 0.1",
    "refused/delta": "local-dp --epsilon 8 --rounds 5",
    "refused/bands": "dp-ftrl --noise-multiplier 1 --rounds 16 --delta 1e-5 --min-separation 4 --bands 5",
    "refused/cohort": "dp-fedavg --noise-multiplier 1 --rounds 10 --delta 1e-5 --clients 10 --cohort 100",
}
SECAGG = "[privacy.secagg]\n"
SGD = "[privacy.dp-sgd]\ndelta = 1e-5\nnoise-multiplier = 1.0\n"
FEDAVG = "[privacy.dp-fedavg]\ndelta = 1e-3\nnoise-multiplier = 1.0\nclip = 0.5\n"
LOCAL = "[privacy.local-dp]\ndelta = 1e-3\nnoise-multiplier = 1.0\nclip = 0.5\n"
FTRL = "[server]\nsampling = 'b-min-sep'\n[privacy.dp-ftrl]\ndelta = 1e-3\nnoise-multiplier = 1.0\nclip = 0.5\nmin-separation = 2\n"
OS = "[privacy]\nnoise = 'os'\n"
BAD: Mapping[str, str] = {
    "toml": "rounds = ",
    "section": "[modle]\nname = 'cnn'",
    "key": "[client]\nepoch = 3",
    "option": "[data]\nalpah = 3",
    "source": "[data]\nsource = 'mnist'",
    "partition": "[data]\npartition = 'x'",
    "model": "[model]\nname = 'rnn'",
    "strategy": "[server]\nstrategy = 'x'",
    "strategy-option": "[server.options]\nmu = 1",
    "module": "[model]\nname = 'no_such_module:build'",
    "type": "rounds = 'ten'",
    "range": "[client]\nlearning-rate = -0.1",
    "cohort": "[server]\ncohort = 51",
    "krum": "[server]\nstrategy = 'krum'\ncohort = 6\n[server.options]\nnum-malicious-nodes = 2",
    "users": "[data]\npartition = 'natural'",
    "kind": "[model]\nname = 'lstm'",
    "evaluation": "[server]\nclient-evaluation = 'all'",
    "max-cohort": "[server]\nmax-cohort = 20",
    "faults": "[faults]\ndropout = 0.7\ncrash = 0.2\nnan = 0.2",
    "straggler": "[faults]\nstraggler = 0.1",
    "address": "[runtime]\naddress = 'auto'",
    "mechanism": "[privacy.dpsgd]\n",
    "not-yet": "[privacy.distributed-dp]\n",
    "two-mechanisms": SGD + FEDAVG,
    "two-client-level": LOCAL + FEDAVG,
    "noise-of-nobody": OS,
    "arithmetic-of-nobody": "[privacy]\narithmetic = 'float32'",
    "arithmetic": "[privacy]\nnoise = 'os'\narithmetic = 'float32'\n" + SGD,
    "dp-sgd/key": SGD + "sigma = 1.0",
    "dp-sgd/both": SGD + "epsilon = 1.0",
    "dp-sgd/neither": "[privacy.dp-sgd]\ndelta = 1e-5",
    "dp-sgd/no-delta": "[privacy.dp-sgd]\nepsilon = 1.0",
    "dp-sgd/delta": SGD.replace("1e-5", "0.0007"),
    "dp-sgd/adversary": SGD + "adversary = 'released-models'",
    "dp-sgd/relation": SGD + "relation = 'add-or-remove-one'",
    "dp-sgd/rate": SGD + "rate = 0.1",
    "dp-sgd/compiled": SGD + "kernel = 'compiled'",
    "dp-sgd/qfedavg": SGD + "[server]\nstrategy = 'qfedavg'",
    "dp-sgd/ray": OS + SGD + "[runtime]\nengine = 'ray'",
    "dp-sgd/out-of-reach": "[privacy.dp-sgd]\nepsilon = 1e-7\ndelta = 1e-12",
    "dp-sgd/b-min-sep": SGD + "[server]\nsampling = 'b-min-sep'",
    "dp-fedavg/no-clip": "[privacy.dp-fedavg]\ndelta = 1e-3\nnoise-multiplier = 1.0",
    "dp-fedavg/delta": FEDAVG.replace("1e-3", "0.1"),
    "dp-fedavg/median": FEDAVG + "[server]\nstrategy = 'fedmedian'",
    "dp-fedavg/weighting": FEDAVG + "[server]\nweighting = 'examples'",
    "dp-fedavg/population": FEDAVG + "population = 1000",
    "dp-fedavg/relation": FEDAVG + "relation = 'add-or-remove-one'",
    "dp-fedavg/declared-rate": FEDAVG + "rate = 0.1",
    "dp-fedavg/sampling": FEDAVG + "relation = 'add-or-remove-one'\nrate = 0.1",
    "dp-fedavg/release": FEDAVG + "[privacy.dp-fedavg.release]\ntrain-loss = { bound = 5 }",
    "dp-fedavg/metric": FEDAVG + "[privacy.dp-fedavg.release]\naccuracy = { bound = 1 }",
    "dp-fedavg/secagg-clip": FEDAVG + "[privacy.secagg]\nclip = 0.1",
    "dp-fedavg/secagg-poisson": FEDAVG + SECAGG + "[server]\nsampling = 'poisson'",
    "dp-fedavg/os-evaluation": OS + FEDAVG + "[data]\nheld-out = 0.1\n[server]\nclient-evaluation = 'all'",
    "local-dp/no-delta": LOCAL.replace("delta = 1e-3\n", ""),
    "local-dp/laplace-delta": LOCAL + "law = 'laplace'",
    "local-dp/delta": LOCAL.replace("1e-3", "0.1"),
    "local-dp/weighting": LOCAL + "[server]\nweighting = 'examples'",
    "local-dp/qfedavg": LOCAL + "[server]\nstrategy = 'qfedavg'",
    "dp-ftrl/sampling": FTRL.replace("b-min-sep", "fixed"),
    "dp-ftrl/bands": FTRL + "bands = 3",
    "dp-ftrl/buffers": FTRL + "buffers = 2",
    "dp-ftrl/separation": FTRL.replace("min-separation = 2", "min-separation = 6"),
    "dp-ftrl/amplified-blt": FTRL + "mechanism = 'blt'\nadversary = 'released-models'",
    "dp-ftrl/amplified-participations": FTRL + "max-participations = 1\nadversary = 'released-models'",
    "dp-ftrl/amplified-secagg": FTRL + "adversary = 'released-models'\n" + SECAGG,
    "secagg/krum": SECAGG + "[server]\nstrategy = 'krum'",
    "secagg/evaluation": SECAGG + "[data]\nheld-out = 0.1\n[server]\nclient-evaluation = 'all'",
    "secagg/minimum": SECAGG + "minimum = 5\n[server]\ncohort = 4",
    "secagg/dropout": SECAGG + "dropout = 0.9",
    "secagg/adversary": SECAGG + "dropout = 0.5\nadversary = 'malicious-server'",
    "secagg/graph": SECAGG + "graph = 'k-regular'",
    "secagg/max-weight": SECAGG + "max-weight = 3",
    "secagg/mode": SECAGG + "mode = 'fake'",
}  # fmt: skip
LISTS = ("data --json", "models --json", "strategies --json", "schema")


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for name, line in BUDGETS.items():
        arguments = ("budget", *line.split())
        # A refusal is no JSON.
        as_json = () if name.startswith("refused/") else (cli(*arguments, "--json"),)
        yield Case(name=f"budget/{name}", steps=(cli(*arguments), *as_json), runs=())
    for line in LISTS:
        yield Case(name=f"lists/{line.split()[0]}", steps=(cli(*line.split()),), runs=())
    yield Case(
        name="lists/partition",
        steps=(cli("data", FILE), cli("data", FILE, "--json")),
        files={FILE: toml({"data": {"partition": "dirichlet"}})},
        runs=(),
    )
    for name, text in BAD.items():
        yield Case(
            name=f"refusals/{name}",
            steps=(cli("run", "bad.toml", "--set", "seed=0", "--out", "run"),),
            files={"bad.toml": text.encode()},
        )
    yield comparison()


def comparison() -> Case:
    """Return the case of `fedsim compare`: four runs, two of which differ only in their seed."""
    names = ("none", "dp-sgd", "dp-fedavg")
    files = {f"{name}.toml": toml(MECHANISMS[name]) for name in names}
    runs = (*names, "again")
    steps = [cli("run", f"{name}.toml", "--out", name) for name in names]
    steps.append(cli("run", "dp-sgd.toml", "--set", "seed=8", "--out", "again"))
    for options in ((), ("--json",), ("--adversary", "known-cohort"), ("--by", "seed"), ("--metric", "loss")):
        steps.append(cli("compare", *runs, *options))
    return Case(name="compare/mechanisms", steps=tuple(steps), files=files, runs=runs)
