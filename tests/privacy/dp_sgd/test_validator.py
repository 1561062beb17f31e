"""DP-SGD's refusals, and their messages."""

import pytest
import torch
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.gradient import PrivateGradient
from fedsim.privacy.dp_sgd.validator import check_model
from tests.privacy.dp_sgd.models import Recurrent, losses

REFUSED = {
    "batch norm": (nn.BatchNorm2d(2), r"1 \(BatchNorm2d\): batch norm .* nn.GroupNorm"),
    "batch norm without parameters": (nn.BatchNorm1d(2, affine=False), r"1 \(BatchNorm1d\)"),
    "batch norm without statistics": (nn.BatchNorm1d(2, track_running_stats=False), r"1 \(BatchNorm1d\)"),
    "deep inside": (nn.Sequential(nn.ReLU(), nn.Sequential(nn.BatchNorm1d(2))), r"1\.1\.0 \(BatchNorm1d\)"),
    "running statistics": (nn.InstanceNorm1d(2, track_running_stats=True), "track_running_stats=False"),
    "renormalised embedding": (nn.Embedding(3, 2, max_norm=1.0), "max_norm"),
    "frequencies": (nn.Embedding(3, 2, scale_grad_by_freq=True), "scale_grad_by_freq"),
    "sparse": (nn.Embedding(3, 2, sparse=True), "sparse=False"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_path_and_class(name: str) -> None:
    module, message = REFUSED[name]
    model = nn.Sequential(nn.Linear(2, 2), module)
    with pytest.raises(ValueError, match=message):
        check_model(model)
    with pytest.raises(ValueError, match=message):
        PrivateGradient(model, losses, clip=1.0)


def test_let_pass() -> None:
    check_model(Recurrent(5, 2, 3, layers=2))
    check_model(nn.Sequential(nn.Conv3d(1, 1, 2), nn.InstanceNorm3d(1, affine=True), nn.GroupNorm(1, 1)))
    check_model(nn.LSTM(2, 2, dropout=0.0))


def test_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="no parameters to train"):
        check_model(nn.Linear(2, 2).requires_grad_(False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clip": 0.0}, "clip = 0.0"),
        ({"clip": float("nan")}, "clip = nan"),
        ({"clip": float("inf")}, "clip = inf"),
        ({"clip": 1.0, "kernel": "quick"}, "kernel = 'quick': must be one of auto, opacus, fast, compiled"),
        ({"clip": 1.0, "max_batch": 0}, "max_batch = 0"),
        ({"clip": 1.0, "kernel": "compiled"}, "needs max_batch"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrivateGradient(nn.Linear(2, 2), losses, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_multiplier": -1.0}, "noise_multiplier = -1"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier = nan"),
        ({"denominator": 0.0}, "denominator = 0"),
        ({"inputs": torch.zeros(3, 2)}, "a batch of 3 examples; max_batch = 2"),
        ({"labels": torch.zeros(1, dtype=torch.long)}, "."),
    ],
)
def test_bad_calls(change: dict, message: str) -> None:
    private = PrivateGradient(nn.Linear(2, 2), losses, clip=1.0, max_batch=2)
    call = {
        "inputs": torch.zeros(2, 2),
        "labels": torch.zeros(2, dtype=torch.long),
        "noise_multiplier": 1.0,
        "denominator": 2.0,
        "noise": torch.zero_,
    }
    with pytest.raises(ValueError, match=message):
        private(**(call | change))


class Centred(nn.Module):
    """Takes the batch's mean from each example."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y - y.mean(0)


@pytest.mark.parametrize("shape", [(3, 2, 2), (3, 3, 2)], ids=["3 steps", "as many steps as examples"])
def test_examples_that_meet(shape: tuple[int, ...]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # there are weights with which the norms are the same by chance
        model = Centred()
    x = torch.arange(float(torch.Size(shape).numel())).view(shape).sin()
    private = PrivateGradient(model, losses, clip=1.0)
    with pytest.raises(ValueError, match="examples meet"):
        private(
            x,
            torch.zeros(x.shape[:-1], dtype=torch.long),
            noise_multiplier=0.0,
            denominator=1.0,
            noise=torch.zero_,
        )


def test_dropout_finds_the_generator_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 3))
    x, y = torch.ones(3, 4), torch.zeros(3, dtype=torch.long)
    drawn = []
    for _ in range(2):
        private = PrivateGradient(model, losses, clip=1.0)
        for _ in range(2):  # the check is in the first call only
            state = torch.get_rng_state()
            torch.default_generator.manual_seed(4)
            private(x, y, noise_multiplier=0.0, denominator=1.0, noise=torch.zero_)
            drawn.append(model[0].weight.grad.clone())
            torch.set_rng_state(state)
    assert all(torch.equal(drawn[0], other) for other in drawn)
