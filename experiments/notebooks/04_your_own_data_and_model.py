# ruff: noqa: N999
"""Your own data and your own model.

Arrays in one file, a model in one function; all else (partitions, strategies, engines, privacy) stays as it is. The
example: 569 tumours, 30 measurements each, benign or malignant (Wisconsin, bundled with scikit-learn), at ten hospitals.
"""

# %%
import inspect
import os
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.datasets import load_breast_cancer

import fedsim
from fedsim.data import prepare
from fedsim.experiments.notebooks import own_model

SIZE = os.environ.get("FEDSIM_NOTEBOOK_SIZE", "full")  # "small": shows that all works, and learns little
folder = Path(tempfile.mkdtemp(prefix="fedsim-"))  # Path("runs") keeps the runs beside you

# %% [markdown]
# ## Data
#
# An `.npz` file with `x_train`, `y_train`, `x_test` and `y_test`: inputs `(examples, features)` or images, labels from
# 0. The other ways: `data.source = "huggingface"` for a data set of the hub or a folder of parquet files, with a column
# for each example's user; `"text-json"` for texts by user; `"own"` for clients that are separate processes, with files
# that never leave them (`fedsim client --data FILE`).

# %%
bundle = load_breast_cancer()
x = np.log1p(bundle.data)  # measurements of a tumour: from thousandths to thousands
x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
test = np.arange(len(x)) % 4 == 0
np.savez(
    folder / "tumours.npz",
    x_train=x[~test],
    y_train=bundle.target[~test],
    x_test=x[test],
    y_test=bundle.target[test],
)

# %% [markdown]
# Mind that mean and standard deviation are taken over all hospitals here, which no privacy mechanism below accounts
# for: in earnest, take public ranges.
#
# ## A model
#
# A function that takes the task (shape of an input, number of labels) and the other keys of `[model]`, and returns a
# `torch.nn.Module`. It stands in a module that Python can import, since worker processes import it too: in a file
# beside your notebook, or, as here, in a package.

# %%
print(inspect.getsource(own_model))

# %% [markdown]
# ## The experiment
#
# A relative path starts at the folder of the experiment file, or at `folder` here.

# %%
text = """
name = "tumours"
rounds = 20

[data]
source = "npz"
path = "tumours.npz"
clients = 10
partition = "dirichlet"
alpha = 1.0

[model]
name = "fedsim.experiments.notebooks.own_model:build"
hidden = 16

[client]
epochs = 2
batch-size = 8
learning-rate = 0.1

[server]
cohort = 5
"""
less = ["rounds=2"] if SIZE == "small" else []
experiment = fedsim.Experiment.from_toml(text, less, folder=folder)
data = prepare(experiment)
print(data.spec)
print(f"{data.clients} hospitals with {data.sizes().min()} to {data.sizes().max()} tumours")

# %%
run = fedsim.run(experiment, folder / "tumours")
print(run.metrics.select("round", "accuracy", "loss").gather_every(4))
print(f"accuracy {run.accuracy:.1%}; all benign: {bundle.target[test].mean():.1%}")

# %% [markdown]
# ## The same with privacy
#
# DP-SGD needs each record's own gradient, which is computed for models of one's own too, as long as no layer mixes
# records (batch normalisation does). No record of any hospital exceeds epsilon 4 against an adversary that sees the
# hospital's updates; hospitals with few records get more noise. The private run has settings of its own: a
# small clip, few large steps.

# %%
private = fedsim.Experiment.from_toml(
    text,
    [
        *less,
        "name=tumours-dp",
        "server.cohort=10",
        "client.steps=2",
        "client.batch-size=16",
        "client.learning-rate=1.0",
        "privacy.dp-sgd={epsilon=4.0, delta=1e-3, clip=0.2}",
    ],
    folder=folder,
)
fedsim.run(private, folder / "tumours-dp")
runs = fedsim.load_runs(folder / "tumours*").drop_nulls("accuracy")
print(
    runs.select("name", pl.col("accuracy").round(3), pl.col("epsilon-known-cohort").round(2), "delta", "unit")
)

# %% [markdown]
# ## Your own strategy
#
# `server.strategy` takes a Flower strategy of yours in the same way, as `"my_package.my_module:build"`. Settings
# that don't fit together are refused before the run:

# %%
for wrong in ("model.name=fedsim.experiments.notebooks.own_model:bild", "model.depth=3", "model.name=cnn"):
    try:
        fedsim.run(fedsim.Experiment.from_toml(text, [wrong], folder=folder), folder / "wrong")
    except fedsim.Refused as refused:
        print(str(refused).replace(str(folder), "..."))
