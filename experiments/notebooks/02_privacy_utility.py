# ruff: noqa: N999
"""What privacy costs: six ways to train, on one frontier.

How much accuracy remains at which epsilon, with which mechanism? Handwritten digits over 200 clients of about 7
examples each, trained without privacy, with DP-FedAvg, DP-FTRL, local DP and DP-SGD, and with DP-FedAvg under secure
aggregation. `experiments/configs/compare.toml` is the same comparison with more epsilons; this one takes minutes.
"""

# %%
import os
import tempfile
from pathlib import Path

import polars as pl

import fedsim
from fedsim.compare import compare, cost_figure, epsilon_figure, frame_of, frontier_figure
from fedsim.experiments.notebooks.showing import show

SIZE = os.environ.get("FEDSIM_NOTEBOOK_SIZE", "full")  # "small": shows that all works, and says nothing
folder = Path(tempfile.mkdtemp(prefix="fedsim-"))  # Path("runs") keeps the runs, and goes on with them

# %% [markdown]
# ## Six arms
#
# A sweep file defines arms: an experiment, changes to it, and varied settings. An epsilon is meaningful only with its
# *unit* and its *adversary*:
#
# | arm | source of the noise | unit | adversary of epsilon |
# |---|---|---|---|
# | dp-fedavg | a trusted server | a client | sees the released models |
# | dp-ftrl | a trusted server, correlated over rounds | a client | sees the released models |
# | dp-fedavg-secagg | a trusted server that sees only sums | a client | also knows the cohorts |
# | local-dp | each client, which trusts no other party | a client | the server, and so anyone |
# | dp-sgd | each client, in each step | one record | sees each client's updates |

# %%
(folder / "digits.toml").write_text("""
name = "digits"
rounds = 24
data = { source = "digits", clients = 200, partition = "iid" }
model = { name = "linear" }
client = { epochs = 2, batch-size = 10, learning-rate = 0.5 }
server = { strategy = "fedavg", cohort = 50, sampling = "poisson", evaluate-every = 4 }
""")
(folder / "sweep.toml").write_text("""
[sweep]
name = "privacy-utility"
config = "digits.toml"
seeds = 3

[[sweep.arms]]
name = "none"

[[sweep.arms]]
name = "dp-fedavg"
set = ["privacy.dp-fedavg={delta = 1e-3, clip = 0.5}"]
grid = { "privacy.dp-fedavg.epsilon" = [1, 3, 8] }

[[sweep.arms]]
name = "dp-ftrl"
set = [
  "privacy.dp-ftrl={delta = 1e-3, clip = 0.5, min-separation = 4, adversary = 'released-models'}",
  "server.sampling=b-min-sep",
]
grid = { "privacy.dp-ftrl.epsilon" = [1, 3, 8] }

[[sweep.arms]]
name = "dp-fedavg-secagg"
set = [
  "privacy.dp-fedavg={delta = 1e-3, clip = 0.5}",
  "privacy.secagg={mode = 'real'}",
  "server.sampling=fixed",
]
grid = { "privacy.dp-fedavg.epsilon" = [1, 3, 8] }

[[sweep.arms]]
name = "local-dp"
set = [
  "privacy.local-dp={delta = 1e-3, clip = 1.0}",
  "rounds=8",
  "client.epochs=4",
  "server.cohort=200",
  "server.sampling=fixed",
  "server.evaluate-every=2",
]
grid = { "privacy.local-dp.epsilon" = [8, 24, 64] }

[[sweep.arms]]
name = "dp-sgd"
set = [
  "privacy.dp-sgd={delta = 5e-4, clip = 0.5}",
  "rounds=20",
  "client.steps=1",
  "client.learning-rate=4.0",
  "server.cohort=200",
  "server.sampling=fixed",
]
grid = { "privacy.dp-sgd.epsilon" = [2, 6, 16] }
""")
print("written:", *sorted(file.name for file in folder.iterdir()))

# %% [markdown]
# ## Running them
#
# Every experiment is checked before the first one runs; then runs are played side by side, one a core. A sweep that
# was interrupted goes on by the same call. (`fedsim sweep sweep.toml` is the same in a terminal.)

# %%
less = ["rounds=2", "server.evaluate-every=1"] if SIZE == "small" else []
sweep = fedsim.sweep(
    folder / "sweep.toml", overrides=less, seeds=1 if SIZE == "small" else None, out=folder / "sweep"
)
print(f"{len(sweep.runs)} of {len(sweep.states)} runs, failed: {sweep.failures or 'none'}")

# %% [markdown]
# A row a run, with every setting, the final metrics, and the epsilon against each adversary that there is one for:

# %%
runs = fedsim.load_runs(sweep.path)
with pl.Config(tbl_rows=12, tbl_hide_column_data_types=True, float_precision=3):
    columns = ["arm", "seed", "accuracy", "noise-multiplier", "epsilon-released-models", "epsilon-server"]
    print(runs.select(columns).gather_every(max(1, len(runs) // 10)))

# %% [markdown]
# ## The frontier
#
# `compare` groups runs that differ only in their seed. A frontier has epsilons against one adversary, here one that
# sees the released models, against which all five mechanisms have an epsilon. There is a panel for each unit, since an
# epsilon of a record and one of a client are different guarantees.

# %%
comparison = compare([sweep.path], adversary="released-models")
show(frontier_figure(comparison), folder / "frontier.png")

# %% [markdown]
# With a trusted server, protecting all data of a client costs a point or two at epsilon 8, and about ten at 1. Secure
# aggregation costs more: cohorts are not secret, so random sampling does not amplify. Local DP needs epsilons with
# weak guarantees, and DP-SGD suffers from seven examples a client.

# %%
table = frame_of(comparison).select(
    "mechanism",
    "unit",
    pl.col("epsilon").round(2),
    sigma=pl.col("noise-multiplier").round(2),
    accuracy=(100 * pl.col("mean")).round(1),
    interval=(100 * pl.col("half-width-95")).round(1) if SIZE == "full" else pl.lit(None),
    price=(100 * pl.col("against-no-noise")).round(1),
)
with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True):
    print(table)

# %% [markdown]
# Accuracy, its 95 % interval over seeds and its price against no noise are in percent and percentage points. Clips,
# rates and rounds were chosen by hand, by the same test set, so all scores are somewhat too good. What else a reader of
# the numbers has to know:

# %%
print("\n".join(f"- {note}" for note in comparison.notes))

# %% [markdown]
# ## Without a trusted server
#
# Of the client-level mechanisms only local DP has an epsilon against the server itself, at the price of weak
# guarantees. The others are listed, with the reason.

# %%
against_server = compare([sweep.path], adversary="server")
for frontier in against_server.frontiers:
    print(f"{frontier.view.unit}, against {frontier.view.adversary}:")
    for point in frontier.points:
        print(f"  {point.group.label}: {point.summary.mean:.1%}")
    for name, why in dict.fromkeys((group.mechanism, why) for group, why in frontier.absent):
        print(f"  {name}: no epsilon, {why}")

# %% [markdown]
# ## When it was spent, and what it took
#
# Epsilon so far, round by round, as each run's ledger has it; and bytes and seconds beside accuracy.

# %%
show(epsilon_figure(comparison), folder / "epsilon.png")

# %%
figure = cost_figure(comparison)
if figure is not None:
    show(figure, folder / "cost.png")

# %% [markdown]
# Every epsilon follows from the ledger of releases: an event a row.

# %%
ledger = fedsim.load_ledger(sweep.path)
with pl.Config(tbl_rows=6, tbl_cols=-1):
    print(ledger.group_by("arm").agg(events=pl.len(), runs=pl.col("path").n_unique()).sort("arm"))
