"""Which runs a client takes part in."""

import sys
from pathlib import Path
from typing import Any

import pytest
from flwr.supercore.run import Run

from fedsim import Experiment
from fedsim.deployment.bundle import RUN_CONFIG, installed_code, make_bundle
from fedsim.deployment.client.admission import Admitted, admit
from fedsim.experiment import NAMES_CODE
from tests.conftest import experiment
from tests.support.deployment.bundles import files_of, zipped

DP = ["privacy.dp-sgd.noise-multiplier=1", "privacy.dp-sgd.delta=1e-5", "client.batch-size=10"]


def admitted(only: list[Experiment] | None = None, fab: bytes | None = None, **config: Any) -> Admitted:
    run = Run.create_empty(5)
    run.series_id = 7
    given = {"experiment": experiment().to_toml(), "run-name": "tiny-1", "code": installed_code()}
    run.override_config = {**given, **{key.replace("_", "-"): value for key, value in config.items()}}
    return admit(run, fab or make_bundle(), only or [])


def test_a_run_of_the_same_code_is_admitted(tiny: Experiment) -> None:
    run = admitted(set="rounds=2")
    assert (run.series, run.name, run.experiment) == (7, "tiny-1", experiment("rounds=2"))
    assert run.run_config.keys() == RUN_CONFIG.keys()
    assert admitted(run_name="").name == "5"


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"code": "a" * 64}, r"^its code differs from this client's: aaaaaaaaaaaa, not [0-9a-f]{12}$"),
    ({"code": ""}, r"its code differs from this client's: none, not"),
    ({"experiment": "/etc/some.toml"}, r"^its experiment is the path '/etc/some.toml'; TOML text is needed$"),
    ({"experiment": "rounds = 0\n"}, r"rounds"),
    ({"experiment": "[["}, r"."),
    ({"set": "rounds='"}, r"."),
    *(
        (
            {"set": f"{key}=antigravity:fly"},
            rf"^{key} = 'antigravity:fly' is a function of the caller's choice",
        )
        for key in NAMES_CODE
        if not key.startswith("server.")
        and "*" not in key  # the server alone calls those; and lists of tables
    ),
    (
        {"set": '\'transforms=[{name="top-k"}, {name="antigravity:fly"}]\''},
        r"^transforms.1.name = 'antigravity:fly' is a function of the caller's choice",
    ),
]


@pytest.mark.parametrize("only", [None, [experiment()]])
@pytest.mark.parametrize(("config", "saying"), OTHERS)
def test_others_are_not(config: dict[str, Any], saying: str, only: list[Experiment] | None) -> None:
    with pytest.raises(ValueError, match=saying) as raised:
        admitted(only, **config)
    assert "\n" not in str(raised.value)
    assert "antigravity" not in sys.modules  # not even validation has loaded it


def test_no_bundle_with_modules() -> None:
    fab = zipped({**files_of(make_bundle()), "clients/app.py": b""})
    with pytest.raises(
        ValueError, match=r"^its bundle is not one of fedsim's: it holds files .*'clients/app.py'$"
    ):
        admitted(fab=fab)


def test_only_those_that_it_was_started_with(tmp_path: Path) -> None:
    one, other = experiment(*DP), experiment(*DP, "rounds=2")
    assert admitted([one, other], experiment=other.to_toml()).experiment == other
    assert admitted([one], experiment=one.to_toml(), set="privacy.noise=os").experiment.privacy.noise == "os"
    for change in ("seed=1", "client.learning-rate=9", "privacy.dp-sgd.noise-multiplier=0.1"):
        with pytest.raises(ValueError, match=r"none of those that this client was started with"):
            admitted([one, other], experiment=one.to_toml(), set=change)
    own = experiment("model.name=mine:model")
    assert admitted([own], experiment=own.to_toml()).experiment == own


def test_which_runs_are_private_and_train_once_a_round() -> None:
    rows = [
        ([], False, False),
        (["privacy.secagg.clip=1"], True, False),
        (DP, True, False),
        ([*DP, "privacy.noise=os"], True, True),
        ([*DP, "privacy.noise=os", "privacy.secagg.clip=1"], True, False),
    ]
    for overrides, private, once in rows:
        run = admitted(experiment=experiment(*overrides).to_toml())
        assert (run.is_private, run.once_a_round) == (private, once), overrides


@pytest.mark.parametrize("source", ["npz", "text-json", "huggingface"])
def test_files_of_the_clients_own_are_for_its_own_list(source: str, tmp_path: Path) -> None:
    there, gone = tmp_path / "there.npz", tmp_path / "gone.npz"
    there.write_bytes(b"secret")
    said = []
    for path in (there, gone):
        named = Experiment.from_toml(f"[data]\nsource = '{source}'\npath = '{path}'\npartition = 'iid'\n")
        with pytest.raises(
            ValueError, match=r"^data.path = '.*' is of the caller's choice; a client reads it"
        ):
            admitted(experiment=named.to_toml())
        with pytest.raises(ValueError, match=r"^data.path = ") as refused:
            admitted(experiment=named.to_toml())
        said.append(str(refused.value).replace(path.name, "X"))
        assert admitted([named], experiment=named.to_toml()).experiment == named
    assert said[0] == said[1]  # nothing tells which of the files is there


def test_the_servers_test_set_beside_the_clients_own_data_is_none_of_its_files() -> None:
    own = Experiment.from_toml("[data]\nsource = 'own'\npath = '/srv/test.npz'\n")
    assert admitted(experiment=own.to_toml()).experiment == own
