"""The computed sum of a step has sensitivity at most the clip norm, and the noise covers its last bit."""

import copy
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from fedsim.privacy.accounting import LocalSteps, known_cohort
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.audit import Release, lowest_bit, measure
from fedsim.privacy.dp_sgd.gradient import Kernel, PrivateGradient
from fedsim.privacy.dp_sgd.independence import Independence
from fedsim.privacy.dp_sgd.rounding import SINGLE
from fedsim.privacy.randomness import NumpyRandomness, SystemRandomness

KERNELS: list[Kernel] = ["opacus", "fast"]


def first(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs.flatten(1).sum(1)


def one_step(kernel: Kernel, noise_multiplier: float, arithmetic: Arithmetic) -> Release:
    """Return the lowest bit of a step's only gradient; with the record the sum is the clip norm, else 0."""
    model = nn.Linear(1, 1, bias=False)
    gradient = PrivateGradient(model, first, clip=1.0, kernel=kernel, arithmetic=arithmetic)

    def release(generator: np.random.Generator, trials: int, present: bool) -> NDArray[np.float64]:
        if arithmetic is Arithmetic.GRID:
            fill: Callable[[Tensor], object] = NumpyRandomness(generator).fill_normal
        else:
            torch_generator = torch.Generator().manual_seed(int(generator.integers(2**62)))
            fill = lambda tensor: tensor.normal_(generator=torch_generator)  # noqa: E731
        x, y = torch.full((1, 1), 5.0 * present), torch.zeros(1)
        found = np.empty(trials, np.float32)
        for trial in range(trials):
            gradient(x, y, noise_multiplier=noise_multiplier, denominator=1.0, noise=fill)  # type: ignore[arg-type]
            found[trial] = model.weight.grad.item()  # type: ignore[union-attr]
        return lowest_bit(found)

    return release


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_lowest_bit_of_a_step_says_no_more_than_is_claimed(kernel: Kernel) -> None:
    """With float32's noise it says which sum was there: at noise multiplier 4, more than 1.2 where 0.926 is claimed."""
    claimed = known_cohort(LocalSteps(noise_multiplier=4.0, rate=1.0, steps=1), 1, 1e-5).pld
    assert claimed == pytest.approx(0.926, abs=1e-3)
    generator = np.random.default_rng(5)
    assert measure(one_step(kernel, 4.0, Arithmetic.GRID), 1000, 1e-5, generator).epsilon < claimed
    assert measure(one_step(kernel, 4.0, Arithmetic.FLOAT32), 1000, 1e-5, generator).epsilon > 1.2


def made_of_noise_alone(weights: NDArray[np.float32]) -> int:
    """Count the float32s that are ten times another."""
    guess = weights / np.float32(10)
    near = [guess, np.nextafter(guess, np.float32(np.inf)), np.nextafter(guess, np.float32(-np.inf))]
    return int(np.any([np.float32(10) * one == weights for one in near], axis=0).sum())


def test_a_models_low_bits_do_not_tell_a_record() -> None:
    """One step from zero of a linear model with 32,770 parameters, noise multiplier 10."""
    model = nn.Linear(16384, 2)

    def runs(arithmetic: Arithmetic, scale: float, seed: int) -> list[int]:
        gradient = PrivateGradient(model, first, clip=1.0, arithmetic=arithmetic)
        generator = torch.Generator().manual_seed(seed)
        noise = NumpyRandomness(np.random.default_rng(seed)).fill_normal
        if arithmetic is Arithmetic.FLOAT32:
            noise = lambda tensor: tensor.normal_(generator=generator)  # type: ignore[assignment,return-value] # noqa: E731
        x, y = torch.full((1, 16384), scale), torch.zeros(1)
        counts = []
        for _ in range(12):
            gradient(x, y, noise_multiplier=10.0, denominator=1.0, noise=noise)
            counts.append(made_of_noise_alone(model.weight.grad.flatten().numpy()))  # type: ignore[union-attr]
        return counts

    there, gone = runs(Arithmetic.GRID, 1.0, 1), runs(Arithmetic.GRID, 0.0, 2)
    assert stats.ks_2samp(there, gone).pvalue > 1e-3
    there, gone = runs(Arithmetic.FLOAT32, 1.0, 1), runs(Arithmetic.FLOAT32, 0.0, 2)
    assert max(there) < min(gone) == 32768  # the control: every run tells


def sums(model: nn.Module, x: Tensor, kernel: Kernel, clip: float, exact: bool = True) -> Tensor:
    """Return a step's sum without noise, float64; without the allowance for rounding if not `exact`."""
    arithmetic = Arithmetic.GRID if exact else Arithmetic.FLOAT32
    gradient = PrivateGradient(model, first, clip=clip, kernel=kernel, arithmetic=arithmetic)
    with mock.patch.object(Independence, "check"):  # it takes many times as long
        gradient(x, torch.zeros(len(x)), noise_multiplier=0.0, denominator=1.0, noise=torch.zero_)
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([2, 17, SINGLE, SINGLE + 1, 300]),
    st.integers(1, 5),
    st.floats(1e-3, 1e3),
    st.sampled_from(KERNELS),
    st.integers(0, 2**32),
)
def test_removing_an_example_moves_the_computed_sum_by_at_most_the_clip_norm(
    batch: int, positions: int, scale: float, kernel: Kernel, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(7, 13), nn.Tanh(), nn.Linear(13, 2))
    x = scale * torch.empty(batch, positions, 7).normal_(generator=generator)
    whole, rest = sums(model, x, kernel, 0.7), sums(model, x[1:], kernel, 0.7)
    assert (whole - rest).norm().item() <= 0.7


def test_without_the_allowance_it_moves_by_more() -> None:
    """The control: equal gradients, whose float32 sum is rounded up by what the last one adds."""
    model = nn.Linear(2, 1, bias=False)
    generator = torch.Generator().manual_seed(1)
    moved = {True: 0.0, False: 0.0}
    for _ in range(40):
        x = (1e4 * torch.empty(1, 2).normal_(generator=generator)).expand(SINGLE, 2).contiguous()
        for exact in moved:
            apart = sums(model, x, "fast", 1.0, exact) - sums(model, x[1:], "fast", 1.0, exact)
            moved[exact] = max(moved[exact], apart.norm().item())
    assert moved[True] <= 1.0 < moved[False]


class Noisy(nn.Module):
    """Counts its passes, and draws a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.passes: list[int] = []  # Opacus' twin of the model has the same

    def __deepcopy__(self, memo: dict[int, object]) -> "Noisy":
        twin = Noisy()
        twin.linear, twin.passes = copy.deepcopy(self.linear, memo), self.passes
        return twin

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        made: Tensor = nn.functional.dropout(self.linear(x), 0.5)
        return made


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_record_that_is_not_finite_does_not_change_the_masks_of_others(kernel: Kernel, bad: float) -> None:
    model, x = Noisy(), torch.randn(6, 4)
    gradient = PrivateGradient(model, first, clip=10.0, kernel=kernel)

    def step(x: Tensor) -> tuple[list[Tensor], int]:
        state, before = torch.get_rng_state(), len(model.passes)
        torch.default_generator.manual_seed(3)
        gradient(x, torch.zeros(6), noise_multiplier=0.0, denominator=1.0, noise=torch.zero_)
        torch.set_rng_state(state)
        return [p.grad.clone() for p in model.parameters() if p.grad is not None], len(model.passes) - before

    step(x)  # with what is done once
    spoilt = x.clone()
    spoilt[2] = bad
    (whole, once), (without, again) = step(x), step(spoilt)
    assert once == again == 1  # the old kernel passed twice, and drew all masks anew
    for parameter, (all_of_them, others) in zip(
        model.parameters(), zip(whole, without, strict=True), strict=True
    ):
        apart = (all_of_them - others).view(len(parameter), -1)  # what example 2 gave, of a linear layer
        if apart.shape[1] == 4:
            assert torch.allclose(apart, apart[:, :1] / x[2, :1] * x[2], atol=1e-6)


def test_the_grid_takes_no_noise_that_it_would_be_denser_than() -> None:
    gradient = PrivateGradient(nn.Linear(4, 4), first, clip=1.0)
    with pytest.raises(ValueError, match=r"noise_multiplier = 100000000\.0: must be at most"):
        gradient(torch.ones(1, 4), torch.zeros(1), noise_multiplier=1e8, denominator=1.0, noise=torch.zero_)


def test_settings_and_dtypes_that_sums_have_no_bound_for_are_refused() -> None:
    with pytest.raises(ValueError, match=r"parameters of torch\.float16"):
        PrivateGradient(nn.Linear(2, 2).half(), first, clip=1.0)
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(ValueError, match=r"'medium'.*'highest' is needed"):
            PrivateGradient(nn.Linear(2, 2), first, clip=1.0)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_operating_systems_noise_is_added_on_the_grid_too() -> None:
    model = nn.Linear(3, 3).double()
    gradient = PrivateGradient(model, first, clip=1.0)
    gradient(
        torch.ones(2, 3, dtype=torch.float64),
        torch.zeros(2),
        noise_multiplier=1.0,
        denominator=1.0,
        noise=SystemRandomness().fill_normal,
    )
    steps = model.weight.grad / 2.0**-17  # type: ignore[operator] # 2^-15 / sqrt(12), as a power of two
    assert torch.equal(steps, steps.round())
    assert not torch.equal(steps / 2, (steps / 2).round())
