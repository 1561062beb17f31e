# ruff: noqa: N999
"""Text: an LSTM that learns to write Python.

Next-character prediction over the source of Python's own standard library: a top-level module is a client, and a tenth
of the modules is the test set. Once without privacy, once with DP-SGD, which protects each stretch of 40 characters.
"""

# %%
import os
import tempfile
from pathlib import Path

import polars as pl
import torch
from matplotlib.figure import Figure

import fedsim
from fedsim.data import prepare
from fedsim.data.tokens import CHARACTERS, tokens
from fedsim.experiments.notebooks.showing import show
from fedsim.tasks.build import task_of

SIZE = os.environ.get("FEDSIM_NOTEBOOK_SIZE", "full")  # "small": shows that all works, and learns little
folder = Path(tempfile.mkdtemp(prefix="fedsim-"))  # Path("runs") keeps the runs beside you

# %% [markdown]
# ## Clients with text
#
# For texts of your own: `source = "text-json"` and a `path` to `{"user": ["text", ...], ...}`. The partition `natural`
# makes each user a client.

# %%
text = """
name = "python"
rounds = 60

[data]
source = "stdlib"
partition = "natural"
sequence-length = 40       # characters that the model reads in one example
min-characters = 20_000    # smaller modules are left out
max-characters = 60_000    # of the larger ones, the beginning is taken

[model]
name = "lstm"
embedding = 16
hidden = 96

[client]
steps = 20
batch-size = 16
learning-rate = 1.0
momentum = 0.9
learning-rate-decay = 0.98

[server]
cohort = 10
evaluate-every = 4
"""
less = ["rounds=2", "server.evaluate-every=2", "client.steps=5"] if SIZE == "small" else []
experiment = fedsim.Experiment.from_toml(text, less)
data = prepare(experiment)
print(f"{data.clients} modules, among them {', '.join(data.names[:6])}")
print(
    f"{data.sizes().sum()} examples to train on, {len(data.test)} to test on, of {data.spec.vocabulary} characters"
)

# %% [markdown]
# A baseline: always predict the most frequent character, the space:

# %%
_, following = task_of(experiment, data.spec).tensors(data.test)
blank = int(tokens(" ")[0])
always_blank = float((following == blank).float().mean())
print(f"always a space: {always_blank:.1%}")

# %% [markdown]
# ## Without privacy, and with it
#
# DP-SGD clips each example's gradient, and adds noise in every step of every client. A client takes part in at most
# eight rounds, which it counts itself; the noise is calibrated to that. Its learning rate is larger and it has no
# momentum. The final epsilon is below 8, since no client was drawn that often.

# %%
plain = fedsim.run(experiment, folder / "plain")
private = fedsim.run(
    fedsim.Experiment.from_toml(
        text,
        [
            *(less or ["rounds=24"]),
            "name=python-dp",
            "client.batch-size=32",
            "client.learning-rate=2.0",
            "client.momentum=0.0",
            "privacy.dp-sgd={epsilon = 8.0, delta = 1e-6, clip = 0.5, max-participations = 8}",
        ],
    ),
    folder / "private",
)

# %%
runs = fedsim.load_runs(folder / "p*")
print(
    runs.select(
        "name",
        "rounds-done",
        pl.col("accuracy").round(3),
        pl.col("epsilon-known-cohort").round(2),
        "delta",
        "unit",
    )
)

# %%
figure = Figure(figsize=(6.5, 3.5), layout="constrained")
axes = figure.subplots()
looks = (("#0072B2", "-", "no privacy"), ("#D55E00", "--", "DP-SGD, epsilon 8, an example"))
for run, (colour, line, label) in zip((plain, private), looks, strict=True):
    scores = run.metrics.drop_nulls("accuracy")
    axes.plot(scores["round"], 100 * scores["accuracy"], line, color=colour, marker=".", label=label)
axes.axhline(100 * always_blank, color="#777777", linestyle=":", label="always a space")
axes.set(xlabel="round", ylabel="next characters predicted (%)", ylim=(0, None))
axes.grid(color="#dddddd")
axes.legend(frameon=False)
show(figure, folder / "text.png")

# %% [markdown]
# ## Let it write
#
# The model reads the last 40 characters and says how likely each next one is; one is drawn (logits divided by a
# temperature of 0.8, so that likely ones are drawn more often still).


# %%
def written(run: fedsim.Run, start: str, count: int = 240) -> str:
    """Return a text that begins with `start`, and has `count` characters more."""
    model, generator = run.model(), torch.Generator().manual_seed(0)
    known = tokens(start).tolist()
    with torch.inference_mode():
        for _ in range(count):
            logits = model(torch.tensor([known[-40:]]))[0, -1] / 0.8
            logits[0] = -torch.inf  # the token of whatever has no token of its own
            known.append(int(torch.multinomial(logits.softmax(0), 1, generator=generator)))
    return "".join(CHARACTERS[token - 1] for token in known)


for run in (plain, private):
    print(f"--- {run.manifest['name']}")
    print(written(run, "\n    def __init__(self, "))
