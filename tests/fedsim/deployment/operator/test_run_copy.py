"""The copy of a run directory, made while fedsim itself writes the directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pytest

import fedsim
from fedsim import Experiment, Refused
from fedsim.deployment.operator.run_copy import Listing, RunCopy, deployment_of
from tests.conftest import experiment
from tests.support.deployment.directories import Source, files_of
from tests.support.stopping import change, stopped

THERE = {"address": "127.0.0.1:9091", "run": "r"}
PRIVATE = [
    "privacy.dp-fedavg.noise-multiplier=1.0",
    "privacy.dp-fedavg.delta=1e-3",
    "privacy.dp-fedavg.clip=1.0",
]


class Copying:
    """Copies after each round that a run tells of."""

    def __init__(self, copy: RunCopy, source: Source) -> None:
        self.copy, self.source = copy, source
        self.seen: list[int] = []

    def started(self, path: Path, rounds: int, done: int) -> None:
        self.copy.update(self.source.listing())

    def round_done(self, row: Mapping[str, Any]) -> None:
        self.copy.update(self.source.listing())
        self.seen.append(len(self.copy.rows))

    def stopping(self) -> None: ...


@pytest.mark.parametrize("overrides", [[], PRIVATE], ids=["plain", "private"])
def test_a_copy_grows_with_the_run_and_ends_as_it(overrides: list[str]) -> None:
    source = Source(Path("r"))
    with RunCopy(Path("copy").absolute(), THERE, source.fetch) as copy:
        copying = Copying(copy, source)
        run = fedsim.run(experiment(*overrides), "r", copying)
        assert copying.seen == [1, 2, 3]
        assert fedsim.load_run("copy").status == "running"
        assert not Path("copy/model.safetensors").exists()
        copy.complete(source.listing(), "completed", None)
    assert files_of(Path("copy")) == files_of(Path("r"))
    assert fedsim.load_run("copy").manifest == {**run.manifest, "deployment": THERE}
    assert fedsim.load_run("copy").accuracy == run.accuracy
    assert source.read["metrics.jsonl"] == Path("r/metrics.jsonl").stat().st_size  # each byte once
    assert deployment_of(Path("copy")) == THERE
    assert {path.name for path in Path().iterdir()} == {"r", "copy"}
    assert Path("r/checkpoint").is_dir()
    assert not Path("copy/checkpoint").exists()


def test_of_a_run_with_real_noise_nothing_private_is_copied() -> None:
    """Even where a server lists it."""
    fedsim.run(experiment(*PRIVATE, "privacy.noise=os"), "r")
    source = Source(Path("r"))
    assert {"private/ledger.jsonl", "private/metrics.jsonl"} <= source.listing().files.keys()
    with RunCopy(Path("copy").absolute(), THERE, source.fetch) as copy:
        copy.complete(source.listing(), "completed", None)
    public = {"experiment.toml", "manifest.json", "metrics.jsonl", "model.safetensors"}
    assert {path.name for path in Path("copy").iterdir()} == public
    copied, run = fedsim.load_run("copy"), fedsim.load_run("r")
    assert copied.rows == run.rows
    exports = [fedsim.export(each, f"of-{each.path.name}").path for each in (copied, run)]
    first, second = ({file.name: file.read_bytes() for file in path.iterdir()} for path in exports)
    assert first == second
    with pytest.raises(Refused, match="--private: run 'copy' has no private/"):
        fedsim.export(copied, "private", private=True)
    with pytest.raises(Refused, match=r"run '.*copy': is completed"):
        fedsim.resume("copy")


def test_a_run_that_goes_on_is_cut_in_the_copy_too(tiny: Experiment) -> None:
    """The server's rows after the last checkpoint are written anew; the copy had them already."""
    stopped(tiny, "r", after=2)
    with Path("r/metrics.jsonl").open("a") as file:
        file.write(
            '{"round": 3, "accuracy": 0.0, "a": "row that no checkpoint holds, and that will be longer"}\n'
        )
    source = Source(Path("r"))
    with RunCopy(Path("copy").absolute(), THERE, source.fetch) as copy:
        copy.update(source.listing())
        assert [row["round"] for row in copy.rows] == [1, 2, 3]
        fedsim.resume("r", Copying(copy, source))
        copy.complete(source.listing(), "completed", None)
    assert files_of(Path("copy")) == files_of(Path("r"))
    assert len(fedsim.load_run("copy").rows) == 3


def test_another_process_goes_on_with_the_copy(tiny: Experiment) -> None:
    stopped(tiny, "r", after=1)
    source, path = Source(Path("r")), Path("copy").absolute()
    with RunCopy(path, THERE, source.fetch) as copy:
        copy.update(source.listing())
        with pytest.raises(Refused, match="is writing it; one at a time"):
            RunCopy(path, THERE, source.fetch)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"half a li')  # of a copying that was killed
    fedsim.resume("r")
    with RunCopy(path, THERE, source.fetch) as copy:
        copy.complete(source.listing(), "completed", None)
    assert files_of(path) == files_of(Path("r"))


def test_half_a_line_waits_for_its_end(tiny: Experiment) -> None:
    stopped(tiny, "r", after=2)
    source, metrics = Source(Path("r")), Path("r/metrics.jsonl")
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:-7])
    with RunCopy(Path("copy").absolute(), THERE, source.fetch) as copy:
        copy.update(source.listing())
        assert len(copy.rows) == 1
        metrics.write_bytes(whole)
        copy.update(source.listing())
        assert len(copy.rows) == 2
    assert Path("copy/metrics.jsonl").read_bytes() == whole


def test_a_detached_copy_is_not_said_to_be_killed(tiny: Experiment) -> None:
    stopped(tiny, "r", after=1)
    change(Path("r"), "manifest.json", lambda tree: tree.update(status="running"))
    source = Source(Path("r"))
    with RunCopy(Path("copy").absolute(), THERE, source.fetch) as copy:
        copy.update(source.listing())
    assert fedsim.load_run("r").status == "killed"  # nobody writes it, and here that can be known
    assert fedsim.load_run("copy").status == "running"


def test_a_copy_can_not_be_resumed_here(tiny: Experiment) -> None:
    stopped(tiny, "r", after=1)
    source = Source(Path("r"))
    with RunCopy(Path("copy").absolute(), THERE, source.fetch) as copy:
        copy.complete(source.listing(), "failed", "lost")
    with pytest.raises(
        Refused, match=r"'.*copy': is the copy of a run at 127.0.0.1:9091; fedsim resume r --on"
    ):
        fedsim.resume("copy")


def test_what_is_no_copy_of_the_run_is_not_written_to(tiny: Experiment) -> None:
    stopped(tiny, "r", after=1)
    source, path = Source(Path("r")), Path("copy").absolute()
    Path("folder").mkdir()
    with RunCopy(path, THERE, source.fetch) as copy:
        copy.update(source.listing())
    before = files_of(path)
    for taken, run in (("folder", "r"), ("r", "r"), ("copy", "other")):
        with pytest.raises(Refused, match=f"--out '.*{taken}': exists, and is no copy of run {run}"):
            RunCopy(Path(taken).absolute(), THERE | {"run": run}, source.fetch)
    assert files_of(path) == before


def test_a_beginning_that_fails_leaves_nothing(tiny: Experiment) -> None:
    stopped(tiny, "r", after=1)

    def fail(file: str, offset: int, into: BinaryIO) -> None:
        raise ConnectionError(104, "cut off")

    with pytest.raises(Refused, match="cut off"), RunCopy(Path("copy").absolute(), THERE, fail) as copy:
        copy.update(Source(Path("r")).listing())
    assert {path.name for path in Path().iterdir()} == {"r"}


def test_names_that_lead_elsewhere_are_left_out(tiny: Experiment) -> None:
    stopped(tiny, "r", after=1)
    source = Source(Path("r"))
    bad = {"../out": 1, "/tmp/out": 1, "a/../../out": 1, ".lock": 1, "checkpoint/.x.draft": 1, "stop": 0}
    with RunCopy(Path("copy").absolute(), THERE, source.fetch) as copy:
        listing = source.listing()
        copy.complete(Listing(listing.manifest, listing.files | bad), "failed", "killed")
    assert set(files_of(Path("copy"))) == set(files_of(Path("r")))
    assert set(source.read) == {*files_of(Path("r"))}
    assert fedsim.load_run("copy").status == "failed"
