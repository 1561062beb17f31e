"""A relative `data.path` starts at the file that it stands in, and on the command line at the caller's folder."""

from pathlib import Path

import pytest

from fedsim import Experiment
from fedsim.sweeps.plan import Arm

FILE = "[data]\nsource = 'npz'\npath = 'x.npz'"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "caller" / "local").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "caller")
    file = tmp_path / "experiments" / "a.toml"
    file.write_text(FILE)
    return file


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        ([], "experiments/x.npz"),
        (["rounds=2"], "experiments/x.npz"),
        (["data.alpha=0.3"], "experiments/x.npz"),
        (["data.path=x.npz"], "caller/x.npz"),
        (["data.path=../experiments/y.npz", "rounds=2"], "experiments/y.npz"),
        (["data={source='npz', path='z.npz'}"], "caller/z.npz"),
        (["data.path=/there/x.npz"], "/there/x.npz"),
        (["data.source=huggingface", "data.path=local"], "caller/local"),
    ],
)
def test_where_a_path_starts(config: Path, tmp_path: Path, overrides: list[str], path: str) -> None:
    assert Experiment.load(config, overrides).data.path == str(tmp_path / path)
    assert Arm.read(config).with_more(overrides, {}).experiment([]).data.path == str(tmp_path / path)


def test_a_name_on_the_hub_stays_a_name(config: Path) -> None:
    named = Experiment.load(config, ["data.source=huggingface", "data.path=who/what"])
    assert named.data.path == "who/what"


def test_the_path_of_a_grid_on_the_command_line_starts_at_the_callers_folder(
    config: Path, tmp_path: Path
) -> None:
    arm = Arm.read(config).with_more(["rounds=2"], {"data.path": ('"y.npz"', "../z.npz")})
    paths = [arm.experiment([f"data.path={value}"]).data.path for value in arm.grid["data.path"]]
    assert paths == [str(tmp_path / "caller" / "y.npz"), str(tmp_path / "z.npz")]


def test_the_path_of_a_sweep_files_grid_starts_at_its_file(config: Path, tmp_path: Path) -> None:
    arm = Arm.read(config, grid={"data.path": ('"y.npz"',)})
    assert arm.experiment(['data.path="y.npz"']).data.path == str(tmp_path / "experiments" / "y.npz")
