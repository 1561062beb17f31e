"""What a client tells the server of an error: nothing about its files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim import Experiment
from fedsim.deployment.client.admission import Admitted
from fedsim.deployment.client.run import ClientLoop
from fedsim.deployment.client.state import State
from fedsim.runtime.spec import acting_as
from tests.conftest import experiment

SECRET = "/srv/patients.npz"
NPZ = Experiment.from_toml(f"[data]\nsource = 'npz'\npath = '{SECRET}'\npartition = 'iid'\n")
OWN_CODE = experiment("model.name=tests.support.models:asleep")


def answered(folder: Path, given: Experiment, error: Exception, data: str = "") -> str:
    """Return the reason that a client gives when its app raises an error."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        if isinstance(error, OSError):
            raise error
        try:
            raise FileNotFoundError(SECRET) if str(error) == "follows" else error
        except FileNotFoundError:
            raise ValueError(f"{SECRET} is missing") from None

    connection: Any = SimpleNamespace(node_id=1)
    loop = ClientLoop(connection, app, {"data": data}, State(folder / "state"), [], lambda line: None)
    config = {"experiment": given.to_toml(), "set": "", "run-name": "a"}
    with acting_as(0):
        message = Message(RecordDict(), 1, "query")
    with pytest.raises(Exception, match=r".") as rejected:
        loop._answer(message, Admitted(7, "a", config, given))
    return str(rejected.value)


@pytest.mark.parametrize(
    ("given", "error", "data"),
    [
        (NPZ, ValueError(f"{SECRET}: has no x_test"), ""),
        (experiment(), ValueError(f"{SECRET}: has no x"), SECRET),
        (OWN_CODE, ValueError(f"{SECRET}: has no x"), ""),
        (experiment(), FileNotFoundError(2, "No such file or directory", SECRET), ""),
        (experiment(), ValueError("follows"), ""),
    ],
)
def test_reasons_about_files_stay_on_the_client(
    tmp_path: Path, given: Experiment, error: Exception, data: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert answered(tmp_path, given, error, data) == "failed"
    assert SECRET in caplog.text  # in its own log


def test_other_reasons_are_told(tmp_path: Path) -> None:
    assert (
        answered(tmp_path, experiment(), ValueError("the model is too wide"))
        == "ValueError: the model is too wide"
    )
