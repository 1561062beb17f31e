"""What all tests share: a cache of their own, no telemetry, no hub."""

import os
import signal
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

# An example takes as long as the machine lets it. `--hypothesis-profile=ci` has no deadline either, and draws the same
# examples each time.
settings.register_profile("default", deadline=None)

_cache = tempfile.mkdtemp(prefix="fedsim-tests-")
os.environ["FEDSIM_CACHE"] = _cache
os.environ["FEDSIM_STATE_HOME"] = (
    f"{_cache}/state"  # of what is made before any test, as by a module's fixture
)
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_HOME"] = f"{_cache}/flwr"
os.environ["HF_HOME"] = f"{_cache}/hf"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_TMPDIR"] = _cache  # where a killed run's cluster can't be found, and waited for

from fedsim import Experiment  # noqa: E402

CONFIGS = Path(__file__).parents[1] / "experiments" / "configs"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _secrets_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what runs go on from, where that is secret, beside the test's folder, for subprocesses too."""
    monkeypatch.setenv("FEDSIM_STATE_HOME", str(tmp_path.with_name(f"{tmp_path.name}-state")))


@pytest.fixture
def tiny() -> Experiment:
    """A few clients, few rounds, a linear model, in this process: a fraction of a second."""
    return experiment()


collect_ignore_glob = ["support/apps_flower/*"]  # Flower apps, loaded by the tests of them


@pytest.fixture
def sigint() -> Iterator[None]:
    """Let SIGINT be heard, by this process and those that it starts: a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def drifting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs use a ClientApp whose clients keep a state that matters."""
    from fedsim.runtime import AppSpec

    monkeypatch.setattr("fedsim.simulate.AppSpec", partial(AppSpec, reference="tests.support.apps:drifting"))


def experiment(*overrides: str) -> Experiment:
    """Return the tiny experiment with overrides."""
    text = """
        name = "tiny"
        rounds = 3
        [data]
        clients = 12
        partition = "iid"
        [model]
        name = "linear"
        [server]
        cohort = 4
        [runtime]
        engine = "sequential"
    """
    return Experiment.from_toml(text, overrides)
