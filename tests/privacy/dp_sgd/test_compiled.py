"""The compiled kernel: the same gradients, from a padded batch."""

import pytest
import torch
from torch import nn

from privacy.dp_sgd import PrivateGradient
from tests.privacy.dp_sgd.models import Images, Recurrent, difference, losses, one_by_one


@pytest.mark.slow  # the compiler takes several seconds
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, on its way to the compiler
def test_a_padded_batch_has_the_gradient_of_the_batch() -> None:
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(1)
    model = Images(1, 5, 2, kernel_size=3)
    x, y = torch.randn(4, 1, 5, 5), torch.randint(3, (4,))
    torch.set_rng_state(state)
    private = PrivateGradient(model, losses, clip=0.5, kernel="compiled", max_batch=4)
    x[3, 0, 2, 2] = float("nan")
    for examples in ([0, 1, 2], [0], [2, 3, 1], [3], []):  # 3 is the one that must not count
        counted = [i for i in examples if i != 3]
        loss = private(x[examples], y[examples], noise_multiplier=0, denominator=2.0, noise=torch.zero_)
        slow, _ = one_by_one(model, x[counted], y[counted], 0.5)
        assert difference([t / 2.0 for t in slow], [p.grad for p in model.parameters()]) < 1e-5
        assert loss == pytest.approx(losses(model(x[counted]), y[counted]).mean().item() if counted else 0.0)


def test_it_refuses_an_lstm() -> None:
    with pytest.raises(ValueError, match=r"lstm \(LSTM\): .*takes minutes"):
        PrivateGradient(Recurrent(5, 2, 3), losses, clip=1.0, kernel="compiled", max_batch=2)


def test_it_says_that_there_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    from torch._inductor.cpp_builder import get_cpp_compiler

    if hasattr(get_cpp_compiler, "cache_clear"):
        get_cpp_compiler.cache_clear()
    with pytest.raises(ValueError, match="needs a C"):
        PrivateGradient(nn.Linear(2, 2), losses, clip=1.0, kernel="compiled", max_batch=2)
