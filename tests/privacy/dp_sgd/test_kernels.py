"""Every kernel gives the gradients that autograd gives one example at a time, and Opacus'."""

import copy
import gc
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.gradient import Kernel, PrivateGradient
from fedsim.privacy.dp_sgd.independence import Independence
from fedsim.privacy.dp_sgd.rounding import KEPT
from tests.privacy.dp_sgd.models import Images, Recurrent, difference, losses, one_by_one, step

CLOSE = 1e-5
KERNELS: list[Kernel] = ["opacus", "fast"]
some_shapes = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def _seeded_and_single_threaded() -> Iterator[None]:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.default_generator.manual_seed(1)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(before)


def assert_all_agree(model: nn.Module, x: Tensor, y: Tensor, close_in_float32: float = CLOSE) -> None:
    """Compare at clip norms that clip nobody, half of them, and everybody, in float32 and in float64."""
    for parameter in model.parameters():  # gradients of about 1, whatever the shapes
        parameter.data.mul_(2)
    for dtype, close in ((torch.float32, close_in_float32), (torch.float64, 1e-9)):
        model = model.to(dtype)
        x = x.to(dtype) if x.is_floating_point() else x
        _, norms = one_by_one(model, x, y, 1.0)
        norms.sort()
        for clip in (2 * norms[-1] + 1, norms[len(norms) // 2] * 1.001 + 1e-3, 0.3 * norms[0] + 1e-3):
            slow, _ = one_by_one(model, x, y, clip)
            opacus = step(model, x, y, clip, "opacus")
            fast = step(model, x, y, clip, "fast")
            largest = max(1.0, max(t.abs().max().item() for t in slow))
            assert difference(slow, fast) < close * largest
            assert difference(opacus, fast) < close * largest


@some_shapes
@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 9), st.lists(st.integers(1, 4), max_size=2))
def test_linear(batch: int, inputs: int, hidden: int, positions: list[int]) -> None:
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 4, bias=False))
    x = torch.randn(batch, *positions, inputs)
    assert_all_agree(model, x, torch.randint(4, (batch, *positions)))


@some_shapes
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([1, 2, 3, 4]),
    st.fixed_dictionaries(
        {
            "kernel_size": st.sampled_from([1, 3, (2, 3)]),
            "stride": st.sampled_from([1, 2, (2, 1)]),
            "padding": st.sampled_from([0, 2, (1, 0), "valid"]),
            "dilation": st.sampled_from([1, (1, 2)]),
            "bias": st.booleans(),
        }
    ),
    st.booleans(),
)
def test_convolution(batch: int, channels: int, outputs: int, options: dict, channels_last: bool) -> None:
    model = Images(channels, 7, outputs, **options)
    x = torch.randn(batch, channels, 7, 7)
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    assert_all_agree(model, x, torch.randint(3, (batch,)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("options", [{"padding": "same"}, {"groups": 2}, {"padding": "same", "dilation": 2}])
def test_convolution_with_rarer_options(options: dict) -> None:
    model = Images(2, 6, 4, kernel_size=(2, 3), **options)
    assert_all_agree(model, torch.randn(3, 2, 6, 6), torch.randint(3, (3,)))


def test_convolution_with_many_channels_on_few_pixels_takes_the_ghost_norm() -> None:
    model = Images(24, 4, 24, kernel_size=3)  # 4 positions; 24 * 216 weights
    # A norm by products of 240 numbers errs upwards by what they may be off by.
    assert_all_agree(model, torch.randn(3, 24, 4, 4), torch.randint(3, (3,)), close_in_float32=1e-4)


@some_shapes
@given(
    st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.integers(1, 2), st.booleans(), st.booleans()
)
def test_lstm(batch: int, steps: int, hidden: int, layers: int, batch_first: bool, every: bool) -> None:
    model = Recurrent(6, 3, hidden, layers=layers, batch_first=batch_first, every=every)
    labels = torch.randint(5, (batch, steps) if every else (batch,))
    assert_all_agree(model, torch.randint(6, (batch, steps)), labels)


def test_lstm_of_numbers_and_without_biases() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, bias=False, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0]

    assert_all_agree(Model(), torch.randn(3, 5, 3), torch.randint(4, (3, 5)))


def test_what_gets_no_gradient_gets_noise_only() -> None:
    class FirstLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 3, 2, batch_first=True)
            self.idle = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[1][0][0]  # the last state of the first of two layers

    model = FirstLayer()
    x, y = torch.randn(4, 3, 2), torch.randint(3, (4,))
    found = step(
        model, x, y, 0.5, "fast", noise_multiplier=3.0, denominator=2.0, noise=lambda t: t.fill_(1.0)
    )
    first = [p for name, p in model.lstm.named_parameters() if name.endswith("l0")]
    assert sum(bool((g == 3.0 * 0.5 / 2.0).all()) for g in found) == len(found) - len(first)


def test_a_long_lstm_takes_the_products_that_are_cheaper() -> None:
    model = Recurrent(9, 8, 32, layers=2)
    assert_all_agree(model, torch.randint(9, (3, 40)), torch.randint(5, (3, 40)))


@some_shapes
@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 5), st.one_of(st.none(), st.integers(0, 4)))
def test_embedding_with_repeated_tokens(batch: int, tokens: int, size: int, padding: int | None) -> None:
    model = nn.Sequential(nn.Embedding(5, size, padding_idx=padding), nn.Tanh(), nn.Linear(size, 3))
    assert_all_agree(model, torch.randint(5, (batch, tokens)), torch.randint(3, (batch, tokens)))


@some_shapes
@given(st.integers(1, 4), st.integers(1, 3), st.integers(2, 4), st.booleans())
def test_layer_norm(batch: int, positions: int, size: int, wide: bool) -> None:
    model = nn.Sequential(
        nn.Linear(2, size), nn.LayerNorm([positions, size] if wide else size, eps=0.1), nn.Linear(size, 3)
    )
    assert_all_agree(model, torch.randn(batch, positions, 2), torch.randint(3, (batch, positions)))


def test_operations_in_place_after_a_layer() -> None:
    model = nn.Sequential(
        nn.Linear(3, 4), nn.ReLU(inplace=True), nn.LayerNorm(4), nn.Hardtanh(inplace=True), nn.Linear(4, 3)
    )
    x, y = torch.randn(5, 3), torch.randint(3, (5,))
    slow, _ = one_by_one(model, x, y, 0.5)
    assert difference(slow, step(model, x, y, 0.5, "fast")) < CLOSE


def test_a_layer_that_only_opacus_knows() -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 3, 2), nn.InstanceNorm1d(3, affine=True), nn.Flatten(), nn.Linear(12, 3)
    )
    assert_all_agree(model, torch.randn(4, 2, 5), torch.randint(3, (4,)))


@pytest.mark.parametrize("kernel", KERNELS)
def test_frozen_parameters_have_no_part(kernel: Kernel) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    x, y = torch.randn(5, 3), torch.randint(3, (5,))
    slow, _ = one_by_one(model, x, y, 0.5)
    assert difference(slow, step(model, x, y, 0.5, kernel)) < CLOSE
    assert model[0].weight.grad is None


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("batch", [0, 1, 4])
def test_a_noised_step_is_the_sum_plus_noise_over_the_denominator(kernel: Kernel, batch: int) -> None:
    model = Images(1, 5, 2, kernel_size=3).to(memory_format=torch.channels_last)
    x, y = torch.randn(batch, 1, 5, 5), torch.randint(3, (batch,))
    slow, _ = one_by_one(model, x, y, 0.5)
    noise = [torch.randn(p.shape) for p in model.parameters()]
    given = iter(noise)
    found = step(
        model, x, y, 0.5, kernel, noise_multiplier=1.5, denominator=7.0, noise=lambda t: t.copy_(next(given))
    )
    expected = [(s + 1.5 * 0.5 * z) / 7.0 for s, z in zip(slow, noise, strict=True)]
    assert difference(expected, found) < CLOSE
    assert next(given, None) is None


def test_opacus_own_optimizer_takes_the_same_noised_step() -> None:
    """Stock Opacus, as its documentation has it, on DPLSTM with the same weights by name."""
    from opacus.grad_sample import GradSampleModule
    from opacus.layers import DPLSTM
    from opacus.optimizers import DPOptimizer

    model = Recurrent(6, 3, 4, layers=2)
    stock = Recurrent(6, 3, 4, layers=2)
    stock.lstm = DPLSTM(3, 4, 2, batch_first=True)
    for name, layer in model.named_children():
        getattr(stock, name).load_state_dict(layer.state_dict())
    x, y = torch.randint(6, (5, 7)), torch.randint(5, (5, 7))
    module = GradSampleModule(stock)
    cells = [getattr(cell, part) for cell in stock.lstm.cells for part in ("ih", "hh")]
    recurrent = [
        p
        for two in (cells[:2], cells[2:])
        for name in ("weight", "bias")
        for p in (getattr(c, name) for c in two)
    ]
    order = [
        stock.embedding.weight,
        *recurrent,
        *stock.head.parameters(),
    ]  # nn.LSTM's, in which noise is drawn
    optimizer = DPOptimizer(
        torch.optim.SGD(order, lr=0.1),
        noise_multiplier=1.3,
        max_grad_norm=0.2,
        expected_batch_size=4,
        generator=torch.Generator().manual_seed(5),
    )
    with pytest.warns(UserWarning, match="Full backward hook"):
        losses(module(x), y).mean().backward()
    optimizer.step()

    generator = torch.Generator().manual_seed(5)
    found = step(
        model,
        x,
        y,
        0.2,
        "fast",
        noise_multiplier=1.3,
        denominator=4.0,
        noise=lambda t: t.copy_(torch.empty(t.shape).normal_(generator=generator)),
    )
    for parameter, gradient in zip(model.parameters(), found, strict=True):
        parameter.data.sub_(gradient, alpha=0.1)
    for name, layer in model.named_children():
        ours, theirs = layer.state_dict(), getattr(stock, name).state_dict()
        assert max((ours[key] - theirs[key]).abs().max().item() for key in ours) < CLOSE


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_an_example_that_is_not_finite_contributes_exactly_zero(kernel: Kernel, bad: float) -> None:
    model = Images(1, 5, 2, kernel_size=3)
    x, y = torch.randn(4, 1, 5, 5), torch.randint(3, (4,))
    others = [0, 2, 3]
    x[1, 0, 2, 2] = bad
    private = PrivateGradient(model, losses, clip=0.5, kernel=kernel)

    def run(x: Tensor, y: Tensor) -> tuple[float, list[Tensor]]:
        loss = private(x, y, noise_multiplier=0.0, denominator=1.0, noise=torch.zero_)
        return loss, [p.grad.clone() for p in model.parameters()]

    with_it, without = run(x, y), run(x[others], y[others])
    if bad != 1e30:  # group norm makes a finite example of that one
        assert with_it[0] == pytest.approx(without[0])
        assert difference(with_it[1], without[1]) < 1e-6
    assert all(g.isfinite().all() for g in with_it[1])
    none = run(x[1:2] * float("nan"), y[1:2])
    assert none[0] == 0.0
    assert all(bool((g == 0).all()) for g in none[1])


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_infinite_loss_contributes_zero(kernel: Kernel) -> None:
    model = nn.Sequential(nn.Linear(2, 1))
    private = PrivateGradient(model, lambda outputs, y: outputs[:, 0] + y, clip=1.0, kernel=kernel)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = private(x, torch.tensor([0.0, torch.inf]), noise_multiplier=0, denominator=1, noise=torch.zero_)
    half = KEPT * 0.5**0.5
    assert model[0].weight.grad.tolist() == [pytest.approx([half, 0.0], abs=1e-5)]
    assert loss == pytest.approx(model(x)[0].item())


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_same_inputs_give_the_same_bits(kernel: Kernel) -> None:
    model = Recurrent(9, 8, 16, layers=2)
    x, y = torch.randint(9, (6, 20)), torch.randint(5, (6, 20))
    first = step(model, x, y, 0.1, kernel)
    assert all(torch.equal(a, b) for a, b in zip(first, step(model, x, y, 0.1, kernel), strict=True))


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_left_of_a_batch(kernel: Kernel) -> None:
    def alive() -> int:
        gc.collect()
        return sum(type(o) is Tensor for o in gc.get_objects())

    model = Recurrent(6, 3, 4, layers=2)
    x, y = torch.randint(6, (3, 5)), torch.randint(5, (3, 5))
    private = PrivateGradient(model, losses, clip=0.5, kernel=kernel)
    counts = []
    for _ in range(4):
        private(x, y, noise_multiplier=1.0, denominator=1.0, noise=torch.zero_)
        counts.append(alive())
    assert counts[1:] == counts[1:2] * 3
    assert not any(p.grad.requires_grad for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kernel", KERNELS)
def test_weights_loaded_in_place_are_the_ones_used(kernel: Kernel) -> None:
    model = Recurrent(6, 3, 4)
    x, y = torch.randint(6, (3, 5)), torch.randint(5, (3, 5))
    private = PrivateGradient(model, losses, clip=0.5, kernel=kernel)
    names, places = list(model.state_dict()), [p.data_ptr() for p in model.parameters()]
    for _ in range(2):
        private(x, y, noise_multiplier=0.0, denominator=1.0, noise=torch.zero_)
        fresh = step(copy.deepcopy(model), x, y, KEPT * 0.5, kernel)
        assert difference(fresh, [p.grad for p in model.parameters()]) < 1e-7
        model.load_state_dict(Recurrent(6, 3, 4).state_dict())
    assert list(model.state_dict()) == names
    assert [p.data_ptr() for p in model.parameters()] == places
    assert torch.equal(model(x), copy.deepcopy(model)(x))


def test_the_gradient_has_the_noise_that_it_is_said_to_have() -> None:
    model = nn.Linear(100, 50)
    generator = torch.Generator().manual_seed(2)
    private = PrivateGradient(model, losses, clip=2.0)
    private(
        torch.zeros(0, 100),
        torch.zeros(0, dtype=torch.long),
        noise_multiplier=3.0,
        denominator=4.0,
        noise=lambda t: t.normal_(generator=generator),
    )
    deviation = model.weight.grad.std().item()
    assert deviation == pytest.approx(3.0 * 2.0 / 4.0, rel=4 / (2 * 5000) ** 0.5)
    assert deviation != pytest.approx(3.0 * 2.0, rel=4 / (2 * 5000) ** 0.5)


@pytest.mark.parametrize("layer", [nn.Linear(64, 64, bias=False), nn.Embedding(3, 64)])
def test_positions_that_cancel_are_clipped_all_the_same(layer: nn.Module) -> None:
    """The norm is 2^-14 of what the positions' are: its square is below the rounding of theirs."""

    def cancelling(outputs: Tensor, labels: Tensor) -> Tensor:
        return 1e4 * (outputs[:, 0] - (1 + 2**-14) * outputs[:, 1]).sum(1)

    x = torch.ones(2, 2, 64) if isinstance(layer, nn.Linear) else torch.ones(2, 2, dtype=torch.long)
    private = PrivateGradient(layer, cancelling, clip=1.0)
    for scale in (1.0, 1e2, 1e4):
        rows = x * scale if isinstance(layer, nn.Linear) else x
        with mock.patch.object(
            Independence, "check"
        ):  # what is added to such a norm is more than it lets pass
            private(rows[:1], torch.zeros(1), noise_multiplier=0.0, denominator=1.0, noise=torch.zero_)
        norm = layer.weight.grad.double().norm().item()
        assert 0.0 < norm <= 1 + 1e-3
