"""The clients' optimizers against PyTorch's classes, which fedsim does not use."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.catalogue import OPTIMIZERS
from fedsim.optimizers import Optimizer
from fedsim.optimizers.adam import Adam
from fedsim.optimizers.adamw import AdamW
from fedsim.optimizers.build import build_optimizer
from fedsim.optimizers.sgd import Sgd
from fedsim.sections import ClientSection

SHAPES = [(), (1,), (7,), (3, 5), (4, 2, 3, 3)]
Make = Callable[[list[torch.nn.Parameter]], Any]


def parameters(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    draws = np.random.default_rng(5)
    made = [torch.tensor(draws.normal(size=shape), dtype=dtype) for shape in SHAPES]
    made[-1] = made[-1].to(memory_format=torch.channels_last)
    return [torch.nn.Parameter(tensor) for tensor in made]


def moved(make: Make, steps: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Return parameters after steps with given gradients; the second has none at first, the third none in step 3."""
    here = parameters(dtype)
    optimizer = make(here)
    draws = np.random.default_rng(6)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        assert all(parameter.grad is None for parameter in here)
        for index, parameter in enumerate(here):
            gradient = torch.tensor(draws.normal(size=parameter.shape) * 10.0 ** (index - 2), dtype=dtype)
            if (index, step) not in {(1, 1), (2, 3)}:
                parameter.grad = gradient
        optimizer.step()
    return [parameter.detach() for parameter in here]


def same_bits(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize(
    ("ours", "theirs", "arguments", "theirs_too"),
    [
        (Sgd, torch.optim.SGD, {}, {}),
        (Sgd, torch.optim.SGD, {"momentum": 0.9}, {"momentum": 0.9}),
        (Adam, torch.optim.Adam, {}, {}),
        (Adam, torch.optim.Adam, {"beta_1": 0.5, "beta_2": 0.9, "eps": 1e-3}, {"betas": (0.5, 0.9), "eps": 1e-3}),
        (AdamW, torch.optim.AdamW, {}, {}),
        (AdamW, torch.optim.AdamW, {"beta_1": 0.0, "beta_2": 0.99}, {"betas": (0.0, 0.99)}),
    ],
)  # fmt: skip
def test_steps_have_the_bits_of_pytorchs_class(
    ours: Any, theirs: Any, arguments: dict[str, Any], theirs_too: dict[str, Any], weight_decay: float, dtype: Any
) -> None:  # fmt: skip
    both = [
        moved(lambda p: ours(p, 0.1, weight_decay=weight_decay, **arguments), 6, dtype),
        moved(lambda p: theirs(p, lr=0.1, weight_decay=weight_decay, **theirs_too), 6, dtype),
    ]
    assert same_bits(*both)
    assert not same_bits(both[0], [p.detach() for p in parameters(dtype)])


def test_weight_decay_of_adamw_is_not_that_of_adam() -> None:
    ends = [moved(lambda p, make=make: make(p, 0.1, weight_decay=0.3), 3) for make in (Adam, AdamW)]
    assert not same_bits(*ends)
    plain = [moved(lambda p, make=make: make(p, 0.1), 3) for make in (Adam, AdamW)]
    assert same_bits(*plain)


def test_adams_state_is_pytorchs() -> None:
    here, there = parameters(torch.float32), parameters(torch.float32)
    ours, theirs = Adam(here, 0.1), torch.optim.Adam(there, lr=0.1)
    for parameter in (*here, *there):
        parameter.grad = torch.ones_like(parameter)
    ours.step()
    theirs.step()
    for mine, other in zip(here, there, strict=True):
        moments, state = ours._moments[mine], theirs.state[other]
        for a, b in zip(moments, (state["exp_avg"], state["exp_avg_sq"], state["step"]), strict=True):
            assert torch.equal(a, b)
            assert (a.dtype, a.stride()) == (b.dtype, b.stride())


@given(st.floats(1e-4, 1.0), st.floats(0.0, 0.99), st.floats(0.0, 0.999), st.floats(1e-9, 1e-2))
@settings(max_examples=30, deadline=None)
def test_adam_is_its_formulas(lr: float, beta_1: float, beta_2: float, eps: float) -> None:
    """Algorithm 1 of Kingma and Ba 2015, in NumPy."""
    weight = torch.nn.Parameter(torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64))
    optimizer = Adam([weight], lr, beta_1, beta_2, eps)
    start = weight.detach().numpy().copy()
    w, m, v = start, np.zeros(3), np.zeros(3)
    for step in range(1, 5):
        g = np.sin(start * step)  # no function of w: a step may be 1e6 long, and its rounding would grow
        weight.grad = torch.from_numpy(g)
        optimizer.step()
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g**2
        w = w - lr * (m / (1 - beta_1**step)) / (np.sqrt(v / (1 - beta_2**step)) + eps)
        np.testing.assert_allclose(weight.detach().numpy(), w, rtol=1e-9, atol=1e-12)


def test_names_build_what_they_say() -> None:
    weights = parameters(torch.float32)
    section = ClientSection.model_validate(
        {"optimizer": "adam", "weight-decay": 0.2, "optimizer-options": {"beta-1": 0.5}}
    )
    built = moved(lambda p: build_optimizer(section, p, 0.03), 4)
    theirs = moved(lambda p: torch.optim.Adam(p, lr=0.03, betas=(0.5, 0.999), weight_decay=0.2), 4)
    assert same_bits(built, theirs)
    for name in OPTIMIZERS:
        assert isinstance(build_optimizer(ClientSection(optimizer=name), weights, 0.1), Optimizer)
    section = ClientSection(momentum=0.9, weight_decay=0.1)  # unset: sgd
    built = moved(lambda p: build_optimizer(section, p, 0.1), 4)
    assert same_bits(built, moved(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1), 4))


def test_a_class_of_pytorch_is_an_optimizer_of_ones_own() -> None:
    section = ClientSection(optimizer="torch.optim:Adagrad", optimizer_options={"lr-decay": 0.1})
    assert same_bits(
        moved(lambda p: build_optimizer(section, p, 0.1), 4),
        moved(lambda p: torch.optim.Adagrad(p, lr=0.1, lr_decay=0.1), 4),
    )
