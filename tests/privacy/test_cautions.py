"""What limits cut of cohorts and batches is told of before the first round, with a value that cuts little."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedsim
from fedsim.privacy.cohorts.rule import share_cut
from fedsim.privacy.dp_sgd.plan import DpSgdPlan
from fedsim.privacy.dp_sgd.settings import DpSgdSettings
from tests.privacy.trainings import training


def _by_sizes(most: int, count: int, rate: float) -> float:
    """Return the share by the law of the sample's size."""
    probability = [math.comb(count, k) * rate**k * (1 - rate) ** (count - k) for k in range(count + 1)]
    return sum(p * max(k - most, 0) for k, p in enumerate(probability)) / (count * rate)


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0.01, 1))
def test_the_share_that_is_cut_is_that_of_the_binomial_law(most: int, count: int, rate: float) -> None:
    assert share_cut(most, count, rate) == pytest.approx(_by_sizes(most, count, rate), abs=1e-12)


def test_by_hand() -> None:
    # Of two coins with at most one head kept, a head is lost once in four throws; one head is expected.
    assert share_cut(1, 2, 0.5) == pytest.approx(0.25)


def _cautions(max_batch: int | None, *records: int) -> list[str]:
    settings = DpSgdSettings(noise_multiplier=1.0, clip=1.0, delta=1e-5, max_batch=max_batch)
    given = training(rounds=2, clients=len(records), cohort=1, records=np.array(records))
    return DpSgdPlan(settings, given).cautions()


def test_batches_that_are_cut_are_told_of_with_a_limit_that_cuts_little() -> None:
    """A batch has 10 examples on average: a limit of 8 cuts about a quarter."""
    (told,) = _cautions(8, 1000, 20)
    share, records, roomy = re.fullmatch(
        r"privacy\.dp-sgd\.max-batch = 8: cuts (\S+) % of the examples out of the batches of a client with (\d+) examples; "
        r"try (\d+)",
        told,
    ).groups()  # type: ignore[union-attr]
    assert int(records) == 1000
    assert float(share) == pytest.approx(100 * _by_sizes(8, 1000, 0.01), rel=0.05)
    assert _cautions(int(roomy), 1000, 20) == _cautions(None, 1000, 20) == []


def test_a_run_says_that_its_cohorts_are_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = '[server]\ncohort = 10\nsampling = "truncated-poisson"\nmax-cohort = {}\n[runtime]\nengine = "sequential"'
    for most, told in ((10, 1), (18, 0)):
        caplog.clear()
        text = f'name = "cut"\nrounds = 1\n[data]\nclients = 20\n[model]\nname = "linear"\n{settings.format(most)}'
        fedsim.run(fedsim.Experiment.from_toml(text), tmp_path / str(most))
        said = [
            message
            for message in caplog.messages
            if "server.max-cohort = 10: cuts 8.8 % of the drawn" in message
        ]
        assert len(said) == told
    # 10 of 20 by coins: half of the mean absolute deviation of Binomial(20, 1/2), over 10, is 8.8 %.
    assert _by_sizes(10, 20, 0.5) == pytest.approx(0.088, abs=5e-4)
