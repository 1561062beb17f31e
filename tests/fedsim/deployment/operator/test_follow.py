"""Starting, following and stopping runs over HTTP, with a server that the test controls."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedsim
from fedsim import Experiment, Interrupted, Refused, RunFailed
from fedsim.deployment.operator.follow import Follower, follow
from fedsim.deployment.operator.remote import Remote
from fedsim.deployment.operator.run_copy import deployment_of
from fedsim.deployment.operator.submit import Submitted, experiment_for, find, resume, stop, submit
from fedsim.deployment.wire import Address
from tests.support.deployment.directories import files_of
from tests.support.deployment.serving import Server, served
from tests.support.stopping import Listener, change, stopped
from tests.support.waiting import later

PRIVATE = "[privacy.dp-fedavg]\nclip = 1.0\nnoise-multiplier = 1.0\ndelta = 1e-3\n"


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "there")


@pytest.fixture
def port(server: Server) -> Iterator[int]:
    with served(server.app) as port:
        yield port


@pytest.fixture
def remote(port: int) -> Iterator[Remote]:
    with Remote.connect(f"127.0.0.1:{port}", None, insecure=True) as remote:
        yield remote


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.deployment.operator.follow.POLL", 0.02)


class Told(Listener):
    """Also hears what is told beside the progress."""

    def tell(self, line: str) -> None:
        self.heard.append(line)


def watch(run: Submitted, told: Told, done: int | None = 0) -> fedsim.Run:
    return follow(run, Path("copy"), told, told.tell, done)


def test_a_run_is_started_followed_and_copied(tiny: Experiment, server: Server, remote: Remote) -> None:
    run = submit(remote, tiny, None)
    assert run.name.startswith("tiny-2")
    assert deployment_of(Path("copy")) == {}

    def work() -> None:
        fedsim.run(tiny, server.folder / run.name)
        server.finish("completed")

    thread = later(work)
    told = Told()
    done = watch(run, told)
    thread.join()
    assert told.heard == [(Path("copy").absolute(), 3, 0), 1, 2, 3]
    assert files_of(Path("copy")) == files_of(server.folder / run.name)
    assert (
        deployment_of(Path("copy"))
        == run.deployment
        == {
            "address": str(remote.address),
            "run": run.name,
            "run-id": 1,
            "series-id": 7,
        }
    )
    assert done.status == "completed"
    assert find(remote, run.name, None).flower.config["code"] == server.code
    assert Experiment.from_run_config(find(remote, run.name, None).flower.config) == tiny


def test_the_watcher_is_called_before_the_first_round_is_shown(
    tiny: Experiment, server: Server, remote: Remote
) -> None:
    run, told, heard = submit(remote, tiny, None), Told(), []
    with run.copy_at(Path("copy")) as copy:

        def note(has_begun: bool) -> None:
            heard.append((has_begun, copy.path.exists(), len(told.heard)))
            if len(heard) == 1:
                fedsim.run(tiny, server.folder / run.name)
                server.finish("completed")

        Follower(run, copy, told, told.tell, watch=note).follow()
    assert heard[:2] == [(False, False, 0), (True, False, 0)]


def test_a_run_that_ends_before_its_first_round(tiny: Experiment, server: Server, remote: Remote) -> None:
    run = submit(remote, tiny, None)
    server.finish("failed", "ServerApp failed with exception: server.cohort = 9: too many")
    with pytest.raises(RunFailed, match=r"^server.cohort = 9: too many$"):
        watch(run, Told())
    assert not Path("copy").exists()
    server.start(**{"run-name": run.name})
    server.finish("stopped")
    with pytest.raises(RunFailed, match="the run was stopped before its first round"):
        watch(find(remote, run.name, None), Told())


def test_a_run_that_fails_and_goes_on(tiny: Experiment, server: Server, remote: Remote) -> None:
    run = submit(remote, tiny, None)
    path = stopped(tiny, str(server.folder / run.name), after=2)
    change(path, "manifest.json", lambda tree: tree.update(status="failed", error="round 3: no"))
    server.finish("failed", "ServerApp failed with exception: round 3: no")
    with pytest.raises(
        RunFailed, match=rf"^round 3: no \(after round 2 of 3; fedsim resume {run.name} --on .* goes on\)$"
    ):
        watch(run, Told())
    assert files_of(Path("copy")) == files_of(path)

    with pytest.raises(Refused, match="has ended"):
        stop(find(remote, run.name, None))
    again = resume(remote, run.name, None)
    assert (again.flower.run_id, again.flower.series_id) == (2, 7)
    with pytest.raises(Refused, match="is going on at"):
        resume(remote, run.name, None)

    def work() -> None:
        fedsim.resume(path)
        server.finish("completed")

    thread = later(work)
    told = Told()
    assert watch(again, told, None).status == "completed"
    thread.join()
    assert told.heard[0][1:] == (3, 2)
    assert told.heard[1:] == [3]
    assert files_of(Path("copy")) == files_of(path)
    with pytest.raises(Refused, match="is completed; only a run that was killed"):
        resume(remote, run.name, None)


def test_going_on_is_refused_by_the_server(tiny: Experiment, server: Server, remote: Remote) -> None:
    """What stands in the run directory is of the session before, and its end is not this one's."""
    run = submit(remote, tiny, None)
    stopped(tiny, str(server.folder / run.name), after=2)
    server.finish("failed")
    again = resume(remote, run.name, None)
    server.finish("failed", "the data has changed")
    with pytest.raises(RunFailed, match=r"^the data has changed$"):
        watch(again, Told())


def test_a_serverapp_that_was_killed(tiny: Experiment, server: Server, remote: Remote) -> None:
    run = submit(remote, tiny, None)
    path = stopped(tiny, str(server.folder / run.name), after=1)
    change(path, "manifest.json", lambda tree: [tree.update(status="running"), tree.pop("error")])
    server.finish("failed", "No heartbeat received from the task")
    with pytest.raises(
        RunFailed, match="ended without an error of its own: No heartbeat received from the task"
    ):
        watch(run, Told())
    assert fedsim.load_run("copy").status == "failed"


def test_stopping(tiny: Experiment, server: Server, remote: Remote) -> None:
    run = submit(remote, tiny, None)
    with pytest.raises(Refused, match="has not begun its first round; allowed: --now"):
        stop(run)
    path = stopped(tiny, str(server.folder / run.name), after=1)
    change(path, "manifest.json", lambda tree: tree.update(status="running"))
    assert stop(run) == f"{run.name}: ends after the round in flight"
    assert (path / "stop").exists()
    assert stop(run, now=True).startswith(f"{run.name}: stopped; fedsim resume {run.name} --on ")
    with pytest.raises(Interrupted, match="interrupted after round 1 of 3; fedsim resume"):
        watch(run, Told())
    assert not Path("copy/stop").exists()
    assert fedsim.load_run("copy").status == "interrupted"


def test_ctrl_c_lets_go(tiny: Experiment, server: Server, remote: Remote, sigint: None) -> None:
    run = submit(remote, tiny, None)
    path = stopped(tiny, str(server.folder / run.name), after=1)
    change(path, "manifest.json", lambda tree: tree.update(status="running"))
    timer = later(lambda: os.kill(os.getpid(), signal.SIGINT), 0.3)
    with pytest.raises(
        Interrupted, match=f"goes on; fedsim follow {run.name} --on 127.0.0.1:[0-9]+ --insecure follows"
    ):
        watch(run, Told())
    timer.join()  # its signal must not come later, in somebody else's test
    assert fedsim.load_run("copy").status == "running"
    assert not (path / "stop").exists()
    fedsim.resume(path)
    server.finish("completed")
    told = Told()
    assert watch(find(remote, run.name, None), told, None).status == "completed"
    assert told.heard == [(Path("copy").absolute(), 3, 3)]


def test_a_server_that_is_away_is_waited_for(tiny: Experiment, server: Server) -> None:
    told = Told()
    with served(server.app) as port, Remote.connect(f"127.0.0.1:{port}", None, insecure=True) as remote:
        run = submit(remote, tiny, None)
    fedsim.run(tiny, server.folder / run.name)
    server.finish("completed")
    server.is_broken, over = True, threading.Event()

    def back() -> None:
        with served(server.app, port):
            time.sleep(0.3)
            server.is_broken = False
            over.wait(60)

    timer = later(back)  # whether the first look comes before it, depends
    with Remote.connect(f"127.0.0.1:{port}", None, insecure=True) as remote:
        again = Submitted(remote, run.name, run.flower, None)
        assert watch(again, told).status == "completed"
    over.set()
    timer.join()
    lost = f"lost the server at 127.0.0.1:{port} "
    assert told.heard[0].startswith((f"{lost}(connection refused); trying", f"{lost}(not ready); trying"))
    assert told.heard[1][1:] == (3, 0)
    assert told.heard[2:] == [1, 2, 3]


def test_a_server_with_other_code_is_refused(tiny: Experiment, server: Server, remote: Remote) -> None:
    server.code = "0" * 64
    with pytest.raises(Refused, match=r"the server has other code \(1.0, 000000000000\) than this command"):
        submit(remote, tiny, None)
    assert server.runs == []


def test_who_is_not_there(tiny: Experiment, server: Server, remote: Remote) -> None:
    with pytest.raises(Refused, match=f"run 'nobody': there is none at {remote.address}"):
        find(remote, "nobody", None)
    for name in ("../x", ".x", "a/b", ""):
        with pytest.raises(Refused, match="must be the name of a run"):
            find(remote, name, None)
    with served(server.app) as port:
        pass
    with (
        Remote.connect(f"127.0.0.1:{port}", None, insecure=True) as gone,
        pytest.raises(
            Refused, match=rf"--on 127.0.0.1:{port}: the server can't be reached: connection refused"
        ),
    ):
        submit(gone, tiny, None)


@pytest.mark.parametrize(
    "text", ["", "here", ":9091", "here:", "here:x", "here:0", "here:65536", "a b:1", "http://x:1"]
)
def test_an_address_is_a_host_and_a_port(text: str) -> None:
    with pytest.raises(Refused, match=r"^--on '"):
        Address.parse(text)


def test_addresses() -> None:
    assert str(Address.parse("[::1]:9091")) == "[::1]:9091"
    loopback = {
        text: Address.parse(text).is_loopback
        for text in ("127.0.0.1:1", "localhost:1", "[::1]:1", "127.9.9.9:1")
    }
    assert set(loopback.values()) == {True}
    assert not any(
        Address.parse(text).is_loopback for text in ("10.0.0.1:1", "localhost.example:1", "[fe80::1]:1")
    )


def test_insecure_is_for_this_machine() -> None:
    with pytest.raises(Refused, match="--insecure: is for this machine alone"):
        Remote.connect("10.0.0.1:9091", None, insecure=True)
    with pytest.raises(Refused, match="can't stand beside --insecure"):
        Remote.connect("127.0.0.1:9091", Path("keys"), insecure=True)
    with pytest.raises(Refused, match="--keys: the operator's folder is needed"):
        Remote.connect("127.0.0.1:9091", None)


@pytest.mark.parametrize(
    ("text", "overrides", "noise"),
    [
        ("", [], "seeded"),
        (PRIVATE, [], "os"),
        ('[privacy]\nnoise = "seeded"\n' + PRIVATE, [], "seeded"),
        (PRIVATE, ["privacy.noise=seeded"], "seeded"),
        ('[privacy]\nnoise = "seeded"\n' + PRIVATE, ["privacy.noise=os"], "os"),
    ],
)
def test_noise_is_the_operating_systems_unless_the_file_says_otherwise(
    text: str, overrides: list[str], noise: str
) -> None:
    file = Path("e.toml")
    file.write_text(text)
    assert experiment_for(file, overrides, loopback=True).privacy.noise == noise
    if noise == "seeded" and text:
        with pytest.raises(
            Refused, match=r"privacy.noise = 'seeded': the seed reveals the noise.*allowed: os"
        ):
            experiment_for(file, overrides, loopback=False)
    else:
        assert experiment_for(file, overrides, loopback=False).privacy.noise == noise
