"""The compiled kernel: the same gradients as the fast one's, from a padded batch."""

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.dp_sgd.gradient import PrivateGradient
from fedsim.privacy.dp_sgd.rounding import KEPT
from tests.privacy.dp_sgd.models import Images, Recurrent, difference, losses, one_by_one


@pytest.mark.slow  # the compiler takes several seconds
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, on its way to the compiler
def test_a_padded_batch_has_the_gradient_of_the_batch() -> None:
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(1)
    model = Images(1, 5, 2, kernel_size=3)
    x, y = torch.randn(4, 1, 5, 5), torch.randint(3, (4,))
    torch.set_rng_state(state)
    private = PrivateGradient(model, losses, clip=0.5 / KEPT, kernel="compiled", max_batch=4)
    x[3, 0, 2, 2] = float("nan")
    for examples in ([0, 1, 2], [0], [2, 3, 1], [3], []):  # 3 is the one that must not count
        counted = [i for i in examples if i != 3]
        loss = private(x[examples], y[examples], noise_multiplier=0, denominator=2.0, noise=torch.zero_)
        slow, _ = one_by_one(model, x[counted], y[counted], 0.5)
        assert difference([t / 2.0 for t in slow], [p.grad for p in model.parameters()]) < 1e-5
        assert loss == pytest.approx(losses(model(x[counted]), y[counted]).mean().item() if counted else 0.0)


class Texts(nn.Module):
    """Layers of other kinds, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.hidden = nn.Linear(4, 5)
        self.unused = nn.Linear(2, 2)
        self.output = nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.output(torch.relu(self.hidden(self.norm(self.embedding(x)))).mean(1))
        return made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_weights_that_are_loaded_in_place_count_and_so_does_the_noise() -> None:
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(2)
    model, x, y = Texts().double(), torch.randint(7, (4, 6)), torch.randint(3, (4,))
    private = {
        kernel: PrivateGradient(  # on the grid, last digits would decide between two of its points
            model, losses, clip=0.1, kernel=kernel, max_batch=5, arithmetic=Arithmetic.FLOAT32
        )
        for kernel in ("fast", "compiled")
    }
    found: dict[str, list[Tensor]] = {}
    for _ in range(2):
        for kernel, gradient in private.items():
            gradient(x, y, noise_multiplier=0.5, denominator=3.0, noise=lambda it: it.fill_(1.0))
            found[kernel] = [cast(Tensor, p.grad).clone() for p in model.parameters()]
        assert difference(found["fast"], found["compiled"]) < 1e-12
        noise = torch.full((2, 2), 0.5 * 0.1 / 3, dtype=torch.float64)
        assert torch.equal(found["compiled"][5], noise)  # unused: the noise alone
        before = found["fast"]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter))
    assert difference(before, [torch.zeros_like(it) for it in before]) > 0.01
    torch.set_rng_state(state)


class Deciding(nn.Sequential):
    """Decides by what is in a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = super().forward(x)
        return made if x.sum() > 0 else -made


def test_it_refuses_a_model_that_decides_by_what_is_in_a_tensor() -> None:
    private = PrivateGradient(Deciding(nn.Linear(2, 2)), losses, clip=1.0, kernel="compiled", max_batch=2)
    with pytest.raises(ValueError, match="control flow depends on a tensor"):
        private(
            torch.ones(2, 2), torch.tensor([0, 1]), noise_multiplier=0, denominator=1.0, noise=torch.zero_
        )


def test_it_refuses_an_lstm() -> None:
    with pytest.raises(ValueError, match=r"lstm \(LSTM\): .*takes minutes"):
        PrivateGradient(Recurrent(5, 2, 3), losses, clip=1.0, kernel="compiled", max_batch=2)


def test_it_says_that_there_is_no_compiler() -> None:
    from torch._inductor import config
    from torch._inductor.cpp_builder import get_cpp_compiler

    def forget() -> None:
        if hasattr(get_cpp_compiler, "cache_clear"):
            get_cpp_compiler.cache_clear()

    forget()
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",)}),  # puts it back, as pytest's monkeypatch does not
        pytest.raises(ValueError, match="needs a C"),
    ):
        PrivateGradient(nn.Linear(2, 2), losses, clip=1.0, kernel="compiled", max_batch=2)
    forget()
