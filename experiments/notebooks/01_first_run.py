# ruff: noqa: N999
"""A first run: fifty clients learn to read digits.

From an experiment to its accuracy, its curve and its model. Fifty clients have real handwritten digits (bundled with
scikit-learn); the server never sees them, only the clients' model updates.
"""

# %%
import os
import tempfile
from pathlib import Path

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import fedsim
from fedsim.data import prepare
from fedsim.experiments.notebooks.showing import show
from fedsim.tasks.build import task_of

SIZE = os.environ.get("FEDSIM_NOTEBOOK_SIZE", "full")  # "small": shows that all works, and learns little
folder = Path(tempfile.mkdtemp(prefix="fedsim-"))  # Path("runs") keeps the runs beside you

# %% [markdown]
# ## An experiment
#
# One TOML text describes a run (usually a file: `fedsim.Experiment.load("my.toml")`, or `fedsim run my.toml` in a
# terminal). Missing keys have defaults; invalid ones are refused before the run.

# %%
experiment = fedsim.Experiment.from_toml(
    """
    name = "first"
    seed = 0
    rounds = 20

    [data]
    source = "digits"
    clients = 50
    partition = "dirichlet"    # uneven labels: the smaller alpha, the more uneven
    alpha = 0.5

    [model]
    name = "cnn"

    [client]
    epochs = 5
    batch-size = 10
    learning-rate = 0.3
    learning-rate-decay = 0.97

    [server]
    strategy = "fedavg"
    cohort = 10                # clients that train in a round
    """,
    ["rounds=3"] if SIZE == "small" else [],
)

# %% [markdown]
# ## The partition
#
# Rows are clients, columns the digits 0 to 9: hardly any client has seen all of them.

# %%
data = prepare(experiment)
for client, counts in enumerate(data.labels()[:5]):
    print(f"client {client}:", " ".join(f"{count:3d}" for count in counts))
sizes = data.sizes()
print(f"{data.clients} clients with {sizes.min()} to {sizes.max()} examples; {len(data.test)} to test on")

# %% [markdown]
# ## Running it

# %%
run = fedsim.run(experiment, folder / "first")
print(f"{run.status}, accuracy {run.accuracy:.1%}, {len(run.rows)} rounds")
print(run.metrics.select("round", "accuracy", "loss", "train-loss", "clients").tail(5))

# %%
figure = Figure(figsize=(6.5, 3.5), layout="constrained")
axes = figure.subplots()
axes.plot(run.metrics["round"], 100 * run.metrics["accuracy"], color="#0072B2", marker=".")
axes.set(xlabel="round", ylabel="accuracy on the test set (%)", ylim=(0, 100))
axes.xaxis.set_major_locator(MaxNLocator(integer=True))
axes.grid(color="#dddddd")
show(figure, folder / "first.png")

# %% [markdown]
# ## The model
#
# `run.model()` is the trained `torch.nn.Module`. Which digits does it mistake, and for which?

# %%
inputs, labels = task_of(experiment, data.spec).tensors(data.test)
guesses = run.model()(inputs).argmax(1)
wrong = (guesses != labels).nonzero().flatten()[:6].tolist()
figure = Figure(figsize=(6.5, 1.7), layout="constrained")
for axes, place in zip(figure.subplots(1, 6).flat, wrong, strict=False):
    axes.imshow(inputs[place, 0], cmap="gray_r")
    axes.set_title(f"{labels[place]}, not {guesses[place]}", fontsize=10)
    axes.set_axis_off()
show(figure, folder / "mistakes.png")

# %% [markdown]
# ## The same bits again
#
# The same experiment with the same seed gives the same weights to the last bit, on every engine: here one client
# after another in this process, and above by worker processes.

# %%
again = fedsim.Experiment.from_toml(experiment.to_toml(), ["runtime.engine=sequential"])
repeated = fedsim.run(again, folder / "again")
same = (run.path / "model.safetensors").read_bytes() == (repeated.path / "model.safetensors").read_bytes()
print("the same bits" if same else "other bits")

# %% [markdown]
# ## Several runs
#
# What if labels are distributed more unevenly still, or evenly? Any key can be overridden; `fedsim.load_runs` makes a
# data frame (polars; `.to_pandas()` if you like) of all runs, a row each.

# %%
for alpha in (0.2, 100):
    uneven = fedsim.Experiment.from_toml(experiment.to_toml(), [f"data.alpha={alpha}", "name=uneven"])
    fedsim.run(uneven, folder / f"alpha-{alpha}")
runs = fedsim.load_runs(folder / "*").sort("data.alpha")
print(runs.select("name", "data.alpha", pl.col("accuracy").round(3), pl.col("loss").round(3)))

# %% [markdown]
# ## Invalid experiments are refused
#
# In one line, with the key, the value and what is allowed, before the run.

# %%
try:
    fedsim.Experiment.from_toml(experiment.to_toml(), ["server.cohort=60"])
except fedsim.Refused as refused:
    print(refused)
