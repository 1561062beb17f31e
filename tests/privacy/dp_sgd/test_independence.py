"""Every kernel refuses a model that mixes examples, before any release."""

import copy
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.catalogue import Kind
from fedsim.data.spec import DataSpec
from fedsim.models.cnn import Cnn
from fedsim.models.dense import mlp
from fedsim.models.lstm import Lstm
from fedsim.options import CnnOptions, LstmOptions, MlpOptions
from fedsim.privacy.dp_sgd.gradient import Kernel, PrivateGradient
from fedsim.privacy.dp_sgd.independence import Independence, check_independent
from fedsim.privacy.dp_sgd.kernels.book_keeping import BookKeepingSum
from fedsim.privacy.dp_sgd.rounding import KEPT
from fedsim.privacy.dp_sgd.validator import check_state
from tests.privacy.dp_sgd.mixing import (
    MIXES,
    Meeting,
    Running,
    former_check,
    losses_by_label,
    losses_over_the_batch,
    mean_of_losses,
)
from tests.privacy.dp_sgd.models import Images, Recurrent, difference, losses, one_by_one, step
from tests.support.tasks import plain

KERNELS = ["fast", "opacus", pytest.param("compiled", marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(3)
    yield
    torch.set_rng_state(before)


def never(tensor: Tensor) -> None:
    raise AssertionError("noise was drawn, so that something was released")


def first_batch(model: nn.Module, x: Tensor, y: Tensor, kernel: Kernel = "fast", loss: Any = losses) -> None:
    """Take the first step, of which nothing may come if it is refused."""
    private = PrivateGradient(model, loss, clip=1.0, kernel=kernel, max_batch=max(len(x), 4))
    private(x, y, noise_multiplier=1.0, denominator=1.0, noise=never)


def batch(size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 4), torch.randint(3, (size,))


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", MIXES)
def test_examples_that_meet(name: str, dropout: float, kernel: Kernel) -> None:
    size = 1 if dropout else 6  # a first batch of one example tells as much
    with pytest.raises(ValueError, match="examples meet before the loss"):
        first_batch(Meeting(MIXES[name], dropout), *batch(size), kernel)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("loss", [mean_of_losses, losses_over_the_batch, losses_by_label])
@pytest.mark.parametrize("size", [1, 6])
def test_losses_that_meet(loss: Any, size: int, kernel: Kernel) -> None:
    x, _ = batch(size)
    with pytest.raises(ValueError, match="examples meet before the loss"):
        first_batch(Meeting(nn.Identity()), x, torch.zeros(size, dtype=torch.long), kernel, loss)


def test_the_former_check_let_most_of_them_pass() -> None:
    """It looked at one norm, to one percent, and not at models that draw; the kernel `opacus` it never looked at."""

    def passed(dropout: float) -> set[str]:
        found = set()
        for name, mix in MIXES.items():
            model, (x, y) = Meeting(mix, dropout), batch(6)
            _, parts = BookKeepingSum(model, losses, 1.0).parts(x, y)
            norm = np.sqrt(sum(part.squares()[0].item() for part in parts.values()))
            if former_check(model, x[:1], y[:1], norm):
                found.add(name)
        return found

    assert "small batch mean" in passed(0.0)
    assert "batch mean" not in passed(0.0)
    constant = {  #
        "batch max",
        "normalisation",
    }  # alone, an example less itself is zero, whatever is dropped of it
    assert passed(0.5) >= MIXES.keys() - constant
    for mix in MIXES.values():
        with mock.patch.object(Independence, "check"):
            first_batch_passes(Meeting(mix), *batch(6), "opacus")


class Centred(nn.Module):
    def __init__(self, share: float) -> None:
        super().__init__()
        self.layer, self.share = nn.Linear(4, 3), share

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x - self.share * x.mean(0))
        return logits


@pytest.mark.parametrize("kernel", ["fast", "opacus"])
def test_removing_an_example_moves_their_sum_by_many_clip_norms(kernel: Kernel) -> None:
    x, y = batch(8)
    x[0], y[1:] = 1000.0, 0

    def moved(model: nn.Module) -> float:
        sums = [step(model, x[first:], y[first:], 0.01, kernel) for first in (0, 1)]
        return float(torch.stack([(a - b).norm() for a, b in zip(*sums, strict=True)]).norm()) / 0.01

    assert moved(Centred(0.0)) < 1.001
    assert moved(Centred(1.0)) > 3
    with pytest.raises(ValueError, match="examples meet"):
        first_batch(Centred(1.0), x, y, kernel)


class Elsewhere(Meeting):
    """Uses a weight outside of its layer."""

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = super().forward(x)
        return made + (self.first.weight**2).sum()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_compiled_code_refuses_a_weight_used_outside_of_its_layer(dropout: float) -> None:
    x, y = batch(6)
    with pytest.raises(ValueError, match=r"first\.weight is used outside of its layer"):
        first_batch(Elsewhere(nn.Tanh(), dropout), x, y * 0, "compiled", lambda o, y: o.square().sum(1))


def test_a_grad_sampler_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from opacus.grad_sample import GradSampleModule

    right = GradSampleModule.GRAD_SAMPLERS[nn.Conv1d]
    model = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(12, 3))
    x, y = torch.randn(4, 2, 5), torch.randint(3, (4,))
    first_batch_passes(model, x, y, "fast")

    def wrong(layer: nn.Module, *rest: Any) -> dict[nn.Parameter, Tensor]:
        return {p: g.flip(0) for p, g in right(layer, *rest).items()}  # those of other examples

    monkeypatch.setitem(GradSampleModule.GRAD_SAMPLERS, nn.Conv1d, wrong)
    private = PrivateGradient(model, losses, clip=0.5 / KEPT)
    private(x, y, noise_multiplier=0.0, denominator=1.0, noise=never)
    expected, _ = one_by_one(model, x, y, 0.5)
    assert difference([p.grad for p in model.parameters() if p.grad is not None], expected) < 1e-5


class OverTheBatch(torch.autograd.Function):
    """Divides a gradient by its norm over the batch, which only shows where all losses go back at once."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return h.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient / gradient.norm()


@pytest.mark.parametrize("kernel", ["fast", "opacus"])
def test_gradients_that_meet_on_their_way_back_are_refused(kernel: Kernel) -> None:
    with pytest.raises(ValueError, match="is not that of autograd"):
        first_batch(Meeting(OverTheBatch.apply), *batch(6), kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_running_statistics(kernel: Kernel) -> None:
    with pytest.raises(ValueError, match=r"mix\.mean changes in a pass forward"):
        first_batch(Meeting(Running()), *batch(6), kernel)


class Remembers(nn.Module):
    """Keeps the last batch's mean where no state dict shows it, and adds it to the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | None = None

    def forward(self, h: Tensor) -> Tensor:
        before, self.last = self.last, h.detach().mean(0)
        return h if before is None else h + before


class FirstBatch(nn.Module):
    """Takes its scale from the first batch that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.scale: float | None = None

    def forward(self, h: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = 1 + h.detach().abs().max().item()
        return h / self.scale


@pytest.mark.parametrize("kernel", ["fast", "opacus"])
def test_state_kept_from_earlier_batches(kernel: Kernel) -> None:
    with pytest.raises(ValueError, match="depends on the batches before it"):
        first_batch(Meeting(Remembers()), *batch(6), kernel)
    with pytest.raises(ValueError, match="examples meet"):
        first_batch(Meeting(FirstBatch()), *batch(6), kernel)


def _noisy(h: Tensor) -> Tensor:
    return h + torch.empty_like(h).normal_()


def _numpy(h: Tensor) -> Tensor:
    return h * float(np.random.default_rng().random())


@pytest.mark.parametrize("kernel", ["fast", "opacus"])
@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (_noisy, "draws random numbers beside those of dropout.*allowed: nn.Dropout"),
        (_numpy, "draws random numbers from elsewhere; allowed: nn.Dropout"),
        (lambda h: F.dropout(h, 1 / (1 + len(h))), "dropout has another probability"),
    ],
)
def test_random_numbers_other_than_dropouts(mix: Any, message: str, kernel: Kernel) -> None:
    with pytest.raises(ValueError, match=message):
        first_batch(Meeting(mix), *batch(4), kernel)


def test_mixing_that_zero_weights_hide() -> None:
    model = Meeting(MIXES["batch mean"])
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(ValueError, match="examples meet"):
        first_batch(model, *batch(3))


def test_the_message_tells_nothing_of_the_examples() -> None:
    said = set()
    for _ in range(5):
        with pytest.raises(ValueError, match="examples meet") as error:
            first_batch(Meeting(MIXES["batch mean"]), *batch(6))
        said.add(str(error.value))
    assert len(said) == 1


# --- what is let pass -----------------------------------------------------------------------------------


class Attention(nn.Module):
    """A block of a transformer of layers that the kernels know."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(11, 8), nn.LayerNorm(8)
        self.heads, self.last = nn.Linear(8, 24), nn.Linear(8, 5)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.heads(h).chunk(3, -1))
        a = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout)
        h = self.norm(h + F.dropout(a.transpose(1, 2).flatten(2), self.dropout, self.training))
        logits: Tensor = self.last(h)
        return logits


class Float32(nn.Module):
    """Makes float32 numbers of what it gets, so that no copy can be in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.float())
        return logits


class ByNumpy(Float32):
    """Leaves autograd before its first layer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.from_numpy(np.sinh(x.numpy())))


def _images(size: int) -> tuple[Tensor, Tensor]:
    return torch.rand(size, 1, 8, 8), torch.randint(10, (size,))


def _texts(size: int) -> tuple[Tensor, Tensor]:
    return torch.randint(11, (size, 7)), torch.randint(5, (size, 7))


IMAGE = plain(DataSpec(kind=Kind.IMAGE, shape=(1, 8, 8), classes=10))
TEXT = plain(DataSpec(kind=Kind.TEXT, shape=(7,), classes=11, vocabulary=11, per_token=True))
GOOD: dict[str, Any] = {
    "cnn": (lambda: Cnn(IMAGE, CnnOptions(width=0.125)), _images),
    "cnn with group norm": (lambda: Cnn(IMAGE, CnnOptions(width=0.125, group_norm=True)), _images),
    "mlp": (lambda: mlp(IMAGE, MlpOptions(hidden=[9])), _images),
    "mlp with dropout": (lambda: Meeting(nn.Identity(), 0.3), batch),
    "functional dropout": (lambda: Meeting(lambda h: F.dropout(h, 0.3)), batch),
    "float64": (lambda: Meeting(nn.Identity(), 0.3).double(), lambda n: (batch(n)[0].double(), batch(n)[1])),
    "float32 only": (Float32, batch),
    "numpy": (ByNumpy, batch),
    "channels last": (
        lambda: Images(1, 8, 4, kernel_size=3).to(memory_format=torch.channels_last),
        lambda n: (_images(n)[0].to(memory_format=torch.channels_last), torch.randint(3, (n,))),
    ),
    "instance norm": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 3, 2), nn.InstanceNorm1d(3, affine=True), nn.Flatten(), nn.Linear(12, 3)
        ),
        lambda n: (torch.randn(n, 2, 5), torch.randint(3, (n,))),
    ),
    "layer norm": (lambda: Meeting(nn.LayerNorm(8)), batch),
    "lstm": (lambda: Lstm(TEXT, LstmOptions(hidden=6, layers=2)), _texts),
    "lstm after the last": (
        lambda: Recurrent(11, 3, 5, every=False),
        lambda n: (_texts(n)[0], torch.randint(5, (n,))),
    ),
    "attention with dropout": (lambda: Attention(0.2), _texts),
    "a constant batch": (lambda: Meeting(nn.Identity()), lambda n: (torch.zeros(n, 4), batch(n)[1] * 0)),
}


def first_batch_passes(model: nn.Module, x: Tensor, y: Tensor, kernel: Kernel) -> None:
    private = PrivateGradient(model, losses, clip=1.0, kernel=kernel, max_batch=8)
    private(x, y, noise_multiplier=0.0, denominator=1.0, noise=never)
    assert any(p.grad is not None and bool(p.grad.count_nonzero()) for p in model.parameters())


@pytest.mark.parametrize("kernel", ["fast", "opacus"])
@pytest.mark.parametrize("size", [1, 6])
@pytest.mark.parametrize("name", GOOD)
def test_examples_that_do_not_meet(name: str, size: int, kernel: Kernel) -> None:
    make, examples = GOOD[name]
    first_batch_passes(make(), *examples(size), kernel)


@pytest.mark.slow  # the compiler takes several seconds for each
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["mlp with dropout", "layer norm"])
def test_examples_that_do_not_meet_in_compiled_code(name: str) -> None:
    make, examples = GOOD[name]
    first_batch_passes(make(), *examples(6), "compiled")


def test_losses_of_other_kinds() -> None:
    x, y = torch.randn(5, 4), torch.rand(5, 2)
    for loss in (
        lambda o, y: (o - y).square().mean(1),
        lambda o, y: F.binary_cross_entropy_with_logits(o, y.round(), reduction="none").mean(1),
        lambda o, y: F.binary_cross_entropy(o.sigmoid(), y, reduction="none").mean(1),
    ):
        check_independent(nn.Linear(4, 2), loss, x, y)


@pytest.mark.parametrize("kernel", ["fast", "opacus"])
def test_a_batch_and_weights_that_are_not_finite_are_no_reason(kernel: Kernel) -> None:
    for weights in (1.0, 1e30, float("nan")):
        model, (x, y) = Meeting(nn.Identity()), batch(4)
        for parameter in model.parameters():
            parameter.data.mul_(weights)
        for bad in (0.0, float("nan"), float("inf")):
            private = PrivateGradient(model, losses, clip=1.0, kernel=kernel)
            private(x + bad, y, noise_multiplier=0.0, denominator=1.0, noise=never)
        meeting = Meeting(MIXES["batch mean"])
        for parameter in meeting.parameters():
            parameter.data.mul_(weights)
        with pytest.raises(ValueError, match="examples meet"):
            first_batch(meeting, x * float("nan"), y, kernel)


# --- how ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["fast", "opacus"])
def test_the_model_is_left_as_it_was(kernel: Kernel) -> None:
    model, (x, y) = Meeting(nn.LayerNorm(8), 0.5), batch(5)
    model.dropout.eval()
    model.register_buffer("unused", torch.tensor([1.0, float("nan")]))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    handle = model.register_forward_hook(lambda *_: None)

    def all_of_it() -> list[Any]:
        return [
            [t.clone() for t in (*model.parameters(), *model.buffers(), x, y)],
            [p.grad for p in model.parameters()],
            [p.requires_grad for p in model.parameters()],
            [
                (m.training, len(m._forward_hooks), len(m._backward_hooks), sorted(vars(m)))
                for m in model.modules()
            ],
            torch.default_generator.get_state().tolist(),
            torch.get_num_threads(),
        ]

    private = PrivateGradient(model, losses, clip=1.0, kernel=kernel)
    before = all_of_it()
    private._independence.check(x, y)
    after = all_of_it()
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before[0], after[0], strict=True))
    assert all(a is b for a, b in zip(before[1], after[1], strict=True))
    assert before[2:] == after[2:]
    handle.remove()


def test_it_is_done_once_and_again_in_other_modes() -> None:
    model, (x, y) = Meeting(nn.Identity(), 0.5), batch(5)
    private = PrivateGradient(model, losses, clip=1.0)
    with mock.patch("fedsim.privacy.dp_sgd.independence.check_independent") as check:
        for size, training, times in ((0, True, 0), (1, True, 1), (5, True, 1), (5, False, 2), (2, True, 2)):
            model.train(training)
            private(x[:size], y[:size], noise_multiplier=0.0, denominator=1.0, noise=never)
            assert check.call_count == times


def test_a_refused_model_is_refused_each_time() -> None:
    private = PrivateGradient(Meeting(MIXES["batch max"]), losses, clip=1.0)
    for _ in range(2):
        with pytest.raises(ValueError, match="examples meet"):
            private(*batch(4), noise_multiplier=0.0, denominator=1.0, noise=never)


def test_a_model_that_can_not_be_copied() -> None:
    model, (x, y) = Meeting(nn.Identity()), batch(4)
    model.kept = threading.Lock()
    with pytest.raises(ValueError, match="can't be copied"):
        check_independent(model, losses, x, y)


def test_state_that_a_pass_changes_by_name() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.register_buffer("steps", torch.zeros((), dtype=torch.long), persistent=False)
            self.steps: Tensor

        def forward(self, x: Tensor) -> Tensor:
            self.steps += int(self.training)
            logits: Tensor = self.layer(x)
            return logits

    class Centres(Counts):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.layer.bias.sub_(self.layer(x).mean(0))
            logits: Tensor = self.layer(x)
            return logits

    class Later(Counts):
        def forward(self, x: Tensor) -> Tensor:
            self.register_buffer("seen", x.mean(0))
            logits: Tensor = self.layer(x)
            return logits

    x, _ = batch(2)
    for make, name in ((Centres, "layer.bias"), (Later, "seen")):
        model = make()
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=f"^{name} changes in a pass forward"):
            check_state(model, x)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert model.steps == 0
    check_state(Counts(), x)  # counts batches, whatever is in them


def test_without_the_check_the_model_would_be_accepted() -> None:
    model, (x, y) = Meeting(MIXES["batch max"]), batch(4)
    with mock.patch.object(Independence, "check"):
        first_batch_passes(model, x, y, "fast")
