"""Time of a DP-SGD step, as a multiple of the same step without privacy.

    python -m fedsim.experiments.benchmarks.dp_sgd --json dp_sgd.json

One thread. A step is forward, backward and SGD; a private one also clips each example's gradient and adds noise.

- `plain`: PyTorch without privacy, its default memory format, nn.LSTM; the reference of all multiples.
- `channels_last`: the same in the memory format of fedsim's CNN.
- `stock opacus`: GradSampleModule (hooks) and DPOptimizer around the plain model, DPLSTM instead of nn.LSTM.
- `opacus`, `fast`, `compiled`: this project's kernels, on the model as fedsim has it.
- `fast float32`: `fast` with float32 noise that is added as floating-point numbers are, which gives no guarantee.

The CNN is McMahan's (1,663,370 parameters at 28x28; `cnn-half` has half the channels and 128 hidden units:
215,370); `cnn-small` is that of Opacus' MNIST example (26,010); the LSTM predicts the next of 90 characters at each of 80 positions (embedding 32, hidden 128).

All of them take turns, again for each repeat and in another order, so that a machine that grows slower does so
for all; a repeat's multiple is that of its medians. First steps, and with them compilation, are apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from fedsim.catalogue import Kind
from fedsim.data import DataSpec
from fedsim.experiments.benchmarks import command, host
from fedsim.models import build
from fedsim.options import Options
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.dp_sgd.gradient import Kernel, PrivateGradient
from fedsim.privacy.randomness import NumpyRandomness, Randomness, SeededRandomness
from fedsim.sections import ModelSection
from fedsim.streams import noise_stream, torch_draws_from, torch_stream
from fedsim.tasks import Task
from fedsim.tasks.classification import Classification
from fedsim.tasks.next_character import NextCharacter

IMAGES: Task = Classification(DataSpec(kind=Kind.IMAGE, shape=(1, 28, 28), classes=10), Options())
TEXT: Task = NextCharacter(
    DataSpec(kind=Kind.TEXT, shape=(80,), classes=90, vocabulary=90, per_token=True), Options()
)
MODELS: dict[str, tuple[ModelSection, Task]] = {
    "cnn": (ModelSection(name="cnn"), IMAGES),
    "cnn-half": (ModelSection(name="cnn", width=0.5, hidden=128), IMAGES),  # type: ignore[call-arg]
    "cnn-small": (ModelSection(name="fedsim.experiments.replications.opacus_mnist:model"), IMAGES),
    "lstm": (ModelSection(name="lstm"), TEXT),
}
CNNS = ("cnn", "cnn-half", "cnn-small")
CLIP, NOISE_MULTIPLIER, RATE = 1.0, 1.0, 0.01
SECONDS = 0.3  # of steps in a turn; at least three steps

Step = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One contender at one model and batch size.

    Attributes:
        model: A key of `MODELS`.
        batch: Examples.
        name: The contender.
        milliseconds: A step, median of each repeat.
        times: Multiple of the plain step's median in the same repeat.
        first: Seconds of the first step, with whatever is done once.
    """

    model: str
    batch: int
    name: str
    milliseconds: list[float]
    times: list[float]
    first: float

    @property
    def ratio(self) -> float:
        """The median multiple."""
        return statistics.median(self.times)


@dataclass(frozen=True)
class Target:
    """A target: the multiple of one contender of another on a model, at most or at least."""

    model: str
    name: str
    limit: float
    of: str = "plain"
    kind: str = "target"
    batches: tuple[int, ...] = ()  # that it is for; empty: all

    def verdict(self, rows: Sequence[Row]) -> str:
        """Return a line with what was measured, by batch size."""
        found = {(row.batch, row.name): row for row in rows if row.model == self.model}
        measured = []
        for batch in sorted({batch for batch, _ in found if batch in self.batches or not self.batches}):
            one, other = found.get((batch, self.name)), found.get((batch, self.of))
            if one and other:
                pairs = zip(one.milliseconds, other.milliseconds, strict=True)
                measured.append(f"{statistics.median(a / b for a, b in pairs):.2f} (batch {batch})")
        bound = "at least" if self.name == "stock opacus" else "at most"
        what = f"{self.name} {bound} {self.limit:g} times {self.of} on {self.model}"
        return f"{self.kind}: {what}; measured: {', '.join(measured) or 'not measured'}"


TARGETS = [
    *(Target(model, "fast", 2.0) for model in CNNS),
    Target("lstm", "fast", 2.5),
    *(Target(model, "stock opacus", 2.0, of="fast") for model in CNNS),
    Target("lstm", "stock opacus", 6.0, of="fast"),
    *(Target(model, "compiled", 1.3) for model in CNNS),
    Target("cnn-half", "fast", 1.5, of="fast float32", batches=(10,)),
    Target("cnn-half", "fast", 1.25, of="fast float32", batches=(32,)),
    Target("lstm", "fast", 1.25, of="fast float32", batches=(10, 32)),
    *(Target(model, "fast", 1.3, kind="stretch") for model in CNNS),
    Target("lstm", "fast", 1.8, kind="stretch"),
]


def contenders(model: str, batch: int, seed: int, compiled: bool) -> dict[str, Step]:
    """Return each contender's step, on its own model with the same weights."""
    section, task = MODELS[model]

    def made(memory_format: torch.memory_format | None = None) -> nn.Module:
        with torch_draws_from(seed, "initial-weights"):
            built = build(section, task)
        return built.to(memory_format=memory_format) if memory_format else built  # type: ignore[call-overload]

    generator = torch_stream(seed, "batch")
    if task is IMAGES:
        x = torch.empty(batch, *task.inputs.shape).normal_(generator=generator)
        y = torch.empty(batch, dtype=torch.long).random_(task.outputs.size, generator=generator)
    else:
        x, y = (torch.empty(batch, *task.inputs.shape, dtype=torch.long) for _ in range(2))
        x.random_(task.inputs.vocabulary, generator=generator)
        y.random_(task.outputs.size, generator=generator)

    steps = {"plain": _plain(made(torch.contiguous_format), x, y)}
    if task is IMAGES:
        steps["channels_last"] = _plain(made(), x, y)
    steps["stock opacus"] = _stock(made(torch.contiguous_format), x, y, torch_stream(seed, "noise"))
    kernels: list[Kernel] = (
        ["opacus", "fast", "compiled"] if compiled and task is IMAGES else ["opacus", "fast"]
    )
    for kernel in kernels:
        steps[kernel] = _private(made(), x, y, kernel, NumpyRandomness(noise_stream(seed, "noise")))
    in_float32 = SeededRandomness(noise_stream(seed, "coins"), torch_stream(seed, "noise"))
    steps["fast float32"] = _private(made(), x, y, "fast", in_float32, Arithmetic.FLOAT32)
    return steps


def _plain(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step() -> object:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return step


def _stock(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Step:
    from opacus.grad_sample import GradSampleModule
    from opacus.layers import DPLSTM
    from opacus.optimizers import DPOptimizer

    for name, layer in list(model.named_children()):
        if isinstance(layer, nn.LSTM):
            replacement = DPLSTM(layer.input_size, layer.hidden_size, layer.num_layers, batch_first=True)
            replacement.load_state_dict(layer.state_dict())
            setattr(model, name, replacement)
    module = GradSampleModule(model)
    optimizer = DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=RATE),
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=CLIP,
        expected_batch_size=len(x),
        generator=generator,
    )

    def step() -> object:
        optimizer.zero_grad()
        loss = F.cross_entropy(module(x).flatten(0, -2), y.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return step


def _private(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    randomness: Randomness,
    arithmetic: Arithmetic = Arithmetic.GRID,
) -> Step:
    gradient = PrivateGradient(
        model, IMAGES.losses, clip=CLIP, kernel=kernel, max_batch=len(x), arithmetic=arithmetic
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    noise = randomness.fill_normal

    def step() -> object:
        loss = gradient(x, y, noise_multiplier=NOISE_MULTIPLIER, denominator=float(len(x)), noise=noise)
        optimizer.step()
        return loss

    return step


def measure(model: str, batch: int, repeats: int, seed: int, compiled: bool) -> list[Row]:
    """Time all contenders at one model and batch size."""
    steps = contenders(model, batch, seed, compiled)
    firsts = {name: _seconds(step) for name, step in steps.items()}
    medians: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for repeat in range(repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            steps[name]()  # warms the caches
            times = [_seconds(steps[name])]
            while len(times) < 3 or sum(times) < SECONDS:
                times.append(_seconds(steps[name]))
            medians[name].append(1000 * statistics.median(times))
    return [
        Row(
            model,
            batch,
            name,
            medians[name],
            [a / b for a, b in zip(medians[name], medians["plain"], strict=True)],
            firsts[name],
        )
        for name in names
    ]


def _seconds(step: Step) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def table(rows: Sequence[Row]) -> Table:
    """Return the rows as a table."""
    made = Table(title="A step of SGD, private and not: milliseconds, and how many times the plain step")
    for name in ("model", "batch", "who"):
        made.add_column(name, no_wrap=True)
    for name in ("ms", "times", "over repeats", "first step"):
        made.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        made.add_row(
            row.model,
            str(row.batch),
            row.name,
            f"{statistics.median(row.milliseconds):.2f}",
            f"{row.ratio:.2f}",
            f"{min(row.times):.2f} to {max(row.times):.2f}",
            f"{row.first:.1f} s",
            end_section=row.name == "fast float32",
        )
    return made


def as_json(hosts: Sequence[object], settings: dict[str, Any], rows: Sequence[Row]) -> str:
    """Return everything as JSON."""
    tree = {
        "settings": settings,
        "host": {"before": hosts[0], "after": hosts[-1]},
        "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
        "targets": [target.verdict(rows) for target in TARGETS],
    }
    return json.dumps(tree, indent=2) + "\n"


def _several(text: str) -> list[int]:
    return [command.positive(part) for part in text.split(",")]


def _models(text: str) -> list[str]:
    if unknown := [name for name in text.split(",") if name not in MODELS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}: must be of {', '.join(MODELS)}")
    return text.split(",")


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> None:
    """Print the table, and write it where asked."""
    parser = command.arguments(__doc__)
    parser.add_argument(
        "--models", type=_models, default=list(MODELS), help=f"of {','.join(MODELS)} (default: all)"
    )
    parser.add_argument("--batches", type=_several, default=[10, 32, 64], help="sizes (default: 10,32,64)")
    parser.add_argument("--repeats", type=command.positive, default=7, help="turns of each (default: 7)")
    parser.add_argument(
        "--no-compiled", action="store_true", help="leave out the kernel that takes a compiler"
    )
    given = parser.parse_args(arguments)
    console = console or command.console()
    torch.set_num_threads(1)
    before, rows = host.describe(), []
    with warnings.catch_warnings():
        # Opacus' hooks at a first layer, and PyTorch's own deprecations on the way to its compiler.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        for model in given.models:
            for batch in given.batches:
                rows += measure(model, batch, given.repeats, given.seed, not given.no_compiled)
                said = ", ".join(
                    f"{r.name} {r.ratio:.2f}" for r in rows if (r.model, r.batch) == (model, batch)
                )
                console.print(f"{model}, batch {batch}: {said}", highlight=False, markup=False)
    settings = {"threads": 1, "clip": CLIP, "noise-multiplier": NOISE_MULTIPLIER, "repeats": given.repeats}
    settings |= {"seed": given.seed}
    if given.json:
        given.json.write_text(as_json([before, host.describe()], settings, rows))
    console.print(table(rows))
    for target in TARGETS:
        if target.model in given.models:
            console.print(target.verdict(rows), highlight=False, markup=False)


if __name__ == "__main__":
    main()
