"""The server's half of DP-FTRL: with its key, the noise continues from a checkpoint."""

import numpy as np
import pytest

from fedsim.privacy.dp_ftrl.plan import DpFtrlPlan
from fedsim.privacy.dp_ftrl.server import DpFtrlServer
from fedsim.privacy.dp_ftrl.settings import DpFtrlSettings
from fedsim.privacy.events import Noise
from tests.privacy.trainings import Streams, training

SETTINGS = DpFtrlSettings(noise_multiplier=0.7, delta=1e-3, clip=0.4, min_separation=3)
ZEROS = {"w": np.zeros(3)}


def server(source: Noise) -> DpFtrlServer:
    """Return a server's half for a model of three numbers; where it has a key, that is its own."""
    of = DpFtrlPlan(SETTINGS, training(rounds=7, clients=24, cohort=6, noise=source))
    return of.server(Streams(source))


def test_rows_continue_after_an_interrupted_round_without_its_noise() -> None:
    whole, resumed, stranger = (server(Noise.SYSTEM) for _ in range(3))
    whole.release(ZEROS, 1, {})
    checkpoint = whole.state()
    whole.release(ZEROS, 2, {})  # the kill comes here: the checkpoint has round 1
    resumed.key = whole.key
    for each in (resumed, stranger):
        each.restore(checkpoint)
    third = [each.release(ZEROS, 3, {}).mean["w"].tobytes() for each in (whole, resumed, stranger)]
    assert third[0] == third[1] != third[2]


def test_seeded_noise_has_no_key_and_goes_on_the_same() -> None:
    whole, resumed = server(Noise.SEEDED), server(Noise.SEEDED)
    assert whole.key == b""
    whole.release(ZEROS, 1, {})
    resumed.restore(whole.state())
    resumed.prefetch(2)
    assert (
        resumed.release(ZEROS, 2, {}).mean["w"].tobytes() == whole.release(ZEROS, 2, {}).mean["w"].tobytes()
    )


def test_a_row_is_released_once() -> None:
    of = server(Noise.SEEDED)
    of.release(ZEROS, 2, {})
    for round_ in (1, 2):
        with pytest.raises(ValueError, match=f"round {round_}|row {round_}"):
            of.release(ZEROS, round_, {})
