"""Server and client processes over TLS: compared with the simulation, and under failures."""

import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedsim
import fedsim.clients.app
import fedsim.clients.mods.secagg
from fedsim import Experiment
from fedsim.data import prepare
from fedsim.deployment.local import Child
from tests.support.federation import Cable, Federation, federation
from tests.support.planted import found, planted
from tests.support.waiting import wait_for

BASE = """
name = "deployed"
seed = 5
rounds = 3
[data]
clients = 4
partition = "dirichlet"
alpha = 0.5
[model]
name = "linear"
[client]
learning-rate = 0.1
[server]
cohort = 4
timeout = 60
"""
SECAGG = ("privacy.secagg.clip=2.0", "privacy.secagg.minimum=2", "privacy.secagg.corrupt=0.0")
LOCAL_DP = (
    "privacy.local-dp.noise-multiplier=0.3",
    "privacy.local-dp.clip=1.0",
    "privacy.local-dp.delta=1e-5",
    "server.weighting=uniform",
)
DP_FEDAVG = (
    "privacy.dp-fedavg.noise-multiplier=0.3",
    "privacy.dp-fedavg.clip=1.0",
    "privacy.dp-fedavg.delta=1e-2",
    "privacy.dp-fedavg.release.train-loss.bound=5.0",
    "privacy.dp-fedavg.release.train-loss.noise=1.0",
    "server.weighting=uniform",
    "server.cohort=2",
    "server.sampling=poisson",
)
DP_SGD = (
    "privacy.dp-sgd.noise-multiplier=0.8",
    "privacy.dp-sgd.clip=1.0",
    "privacy.dp-sgd.delta=1e-5",
)
DP_FTRL = (
    "privacy.dp-ftrl.noise-multiplier=0.3",
    "privacy.dp-ftrl.clip=1.0",
    "privacy.dp-ftrl.delta=1e-2",
    "privacy.dp-ftrl.min-separation=2",
    "server.weighting=uniform",
    "server.cohort=1",
    "server.sampling=b-min-sep",
)
RUNS = {
    "plain": (
        "server.strategy=fedadam",
        "server.cohort=3",
        "data.held-out=0.25",
        "server.client-evaluation=all",
    ),
    "median": ("server.strategy=fedmedian",),
    "scaffold": ("algorithm.name=scaffold", "server.cohort=3", "client.epochs=2"),
    "scaffold secagg": ("algorithm.name=scaffold", "server.weighting=uniform", *SECAGG, "server.cohort=3"),
    "secagg": (*SECAGG, "privacy.secagg.adversary=malicious-server", "privacy.secagg.dropout=0.2"),
    "local-dp": LOCAL_DP,
    "dp-sgd": (*DP_SGD, *SECAGG),
    "dp-fedavg": DP_FEDAVG,
    "dp-ftrl": DP_FTRL,
}


def setting(*overrides: str) -> Experiment:
    return Experiment.from_toml(BASE, overrides)


@pytest.fixture(scope="module")
def party(tmp_path_factory: pytest.TempPathFactory) -> Federation:  # type: ignore[misc]
    """Four clients, for several runs."""
    with federation(tmp_path_factory.mktemp("federation"), 4) as party:
        for number in range(4):
            party.client(number)
        party.wait_until_online(4)
        yield party


def whole(run: fedsim.Run) -> list[object]:
    """Return the results of a run, without times and message sizes."""
    other = ("seconds", "secagg-bytes-up", "secagg-bytes-down")  # what a run is called takes bytes too
    rows = [{name: value for name, value in row.items() if name not in other} for row in run.rows]
    ledger = run.path / "ledger.jsonl"
    return [
        run.status,
        rows,
        {name: array.tobytes() for name, array in load_file(run.path / "model.safetensors").items()},
        ledger.read_text() if ledger.exists() else "",
        run.manifest["epsilon"],
        (run.path / "experiment.toml").read_text(),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_a_run_over_processes_is_the_simulations_to_the_last_bit(
    party: Federation, overrides: tuple[str, ...]
) -> None:
    experiment = setting(*overrides)
    run = party.finish(party.submit(experiment), Path("deployed"))
    reference = fedsim.run(experiment, "simulated")
    assert whole(run) == whole(reference)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [LOCAL_DP, DP_FEDAVG, DP_FTRL, (*DP_SGD, *SECAGG)], ids=lambda o: o[0].split(".")[1]
)
def test_noise_of_the_operating_system_costs_what_the_seeded_one_does_and_is_another(
    party: Federation, overrides: tuple[str, ...]
) -> None:
    run = party.finish(party.submit(setting(*overrides, "privacy.noise=os")), Path("deployed"))
    reference = fedsim.run(setting(*overrides), "simulated")
    assert run.status == "completed"
    there = fedsim.load_run(party.folder / "server" / "runs" / run.manifest["deployment"]["run"])
    assert '"noise": "os"' in there.ledger.read_text()
    assert "train-loss" not in there.private_rows[-1]
    assert {file.name for file in run.path.iterdir()} == {
        "experiment.toml",
        "manifest.json",
        "metrics.jsonl",
        "model.safetensors",
    }
    assert "train-loss" not in run.rows[-1]
    assert ("released-train-loss" in run.rows[-1]) == (overrides is DP_FEDAVG)
    here, simulated = (
        {name: said["epsilon"] for name, said in each.manifest["epsilon"].items() if "epsilon" in said}
        for each in (run, reference)
    )
    assert here == simulated
    weights = [load_file(each.path / "model.safetensors") for each in (run, reference)]
    assert any(not np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def is_in_touch(client: Child) -> bool:
    """Say whether a client has joined, and has not lost the server since: a new server takes it for online too long."""
    return bool(client.lines) and "trying again" not in client.lines[-1]


@pytest.mark.slow
def test_a_federation_outlives_whatever_happens_to_its_parts(tmp_path: Path) -> None:
    """A client is killed, one is stopped past the deadline, one is cut off, and then the server is killed."""
    experiment = setting(
        "rounds=10",
        "data.clients=8",
        "server.cohort=8",
        "server.timeout=12",
        *SECAGG,
        "privacy.secagg.dropout=0.4",
    )
    with federation(tmp_path / "federation", 8) as party:
        cable = Cable(party.address)
        clients = [party.client(number, address=cable.address if number == 2 else "") for number in range(8)]
        party.wait_until_online(8)
        run = party.submit(experiment)
        party.wait_for_round(run, 1)
        party.signal(clients[0], signal.SIGKILL)
        party.wait_for_round(run, 2)
        party.signal(clients[1], signal.SIGSTOP)
        party.wait_for_round(run, 3)
        cable.cut()
        party.wait_for_round(run, 4)
        clients[0] = party.client(0)
        party.signal(clients[1], signal.SIGCONT)
        cable.mend()
        party.wait_for_round(run, 5)
        party.restart_server()
        wait_for(lambda: all(map(is_in_touch, clients)))
        party.wait_until_online(8)
        resumed = party.finish(party.resume(run), tmp_path / "run")
        cable.close()
    assert resumed.status == "completed"
    rows = resumed.rows
    assert [row["round"] for row in rows] == list(range(1, 11))
    assert (rows[0]["clients"], rows[0]["failures"]) == (8, 0)
    assert (rows[-1]["clients"], rows[-1]["failures"]) == (8, 0), "everybody has come back"
    lost = {reason.split(":")[0] for row in rows for reason in row.get("failure-reasons", [])}
    assert {"client 0", "client 1", "client 2"} <= lost
    assert all(row["clients"] + row["failures"] == 8 for row in rows if not row.get("abandoned"))
    abandoned = [row["round"] for row in rows if row.get("abandoned")]
    assert len(abandoned) <= 1, "the round in flight when the server was killed, if there was one"
    assert rows[-1]["accuracy"] > 0.8


@pytest.mark.slow
def test_the_secrets_of_a_run_are_in_the_servers_state_and_outlive_it_while_the_run_may_go_on(
    tmp_path: Path,
) -> None:
    experiment = setting(*DP_FTRL, "privacy.noise=os", "rounds=20")
    state = tmp_path / "federation" / "server"
    with federation(tmp_path / "federation", 4) as party:
        clients = [party.client(number) for number in range(4)]
        party.wait_until_online(4)
        run = party.submit(experiment)
        party.wait_for_round(run, 2)
        party.restart_server()
        (folder,) = (state / "secrets").iterdir()
        paths = [folder, *folder.rglob("*")]
        assert {path.name for path in paths} >= {"checkpoint", "cohorts.jsonl", "key"}
        assert {path.stat().st_mode & 0o777 for path in paths if path.is_dir()} == {0o700}
        assert {path.stat().st_mode & 0o777 for path in paths if path.is_file()} == {0o600}
        assert not (state / "runs" / run.name / "checkpoint").exists()
        key = (folder / "key").read_bytes()
        wait_for(lambda: all(map(is_in_touch, clients)))
        party.wait_until_online(4)
        done = party.finish(party.resume(run), tmp_path / "run")
    assert done.status == "completed"
    assert [row["round"] for row in done.rows] == list(range(1, 21))
    assert list((state / "secrets").iterdir()) == []
    for place in (done.path, state / "runs" / run.name):
        contents = {path.name: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        assert contents.keys() >= {"manifest.json", "model.safetensors"}
        assert not any(key in content or key.hex().encode() in content for content in contents.values())
        assert "last-round.safetensors" not in contents


RECORDING = """
import os
from fedsim.deployment.server.auth import Auth

serve = Auth.__call__

async def recording(auth, scope, receive, send):
    async def heard():
        event = await receive()
        if scope.get("path", "").startswith("/v1/fleet/"):
            with open(os.environ["RECORD"], "ab") as file:
                file.write(event.get("body", b""))
        return event
    await serve(auth, scope, heard, send)

Auth.__call__ = recording
"""


@pytest.mark.slow
def test_what_the_server_receives_holds_no_update_and_without_secure_aggregation_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    with federation(tmp_path / "federation", 4, RECORDING) as party:
        for number in range(4):
            party.client(number)
        party.wait_until_online(4)
        for name, overrides, leaks in (("secagg", SECAGG, False), ("open", (), True)):
            with monkeypatch.context() as patch:
                secrets = planted(patch)
                fedsim.run(setting("rounds=1", *overrides, "runtime.engine=sequential"), f"{name}-simulated")
            assert len(secrets) > 4
            (tmp_path / "record").write_bytes(b"")
            party.finish(party.submit(setting("rounds=1", *overrides)), Path(name))
            received = (tmp_path / "record").read_bytes()
            assert len(received) > 4 * 650 * 4, "four vectors at least"
            assert (found(secrets, received) > 100) is leaks, name
            assert (b"num-examples" in received) is leaks


MEDDLING = """
import fedsim.clients.mods.secagg as mod
from fedsim.privacy.secagg.spec import Stage

answer, sent = mod._answer, {}

def meddling(participant, message, context, call_next):
    round_, stage, _ = mod.record_of_stage(message)
    body = answer(participant, message, context, call_next)
    sent[round_, stage] = body
    if (round_, stage) == (2, Stage.UPLOAD):
        return body[:-1] + bytes([body[-1] ^ 1])
    return sent[2, stage] if (round_, stage) == (3, Stage.SHARE) else body

mod._answer = meddling
"""


@pytest.mark.slow
def test_messages_of_secure_aggregation_that_are_altered_or_replayed_are_refused_and_logged(
    tmp_path: Path,
) -> None:
    signed = ("privacy.secagg.adversary=malicious-server", "privacy.secagg.dropout=0.3", "server.cohort=6")
    experiment = setting("rounds=4", "data.clients=6", *SECAGG, *signed)
    with federation(tmp_path / "federation", 6) as party:
        for number in range(6):
            party.client(number, code=MEDDLING if number == 1 else "")
        party.wait_until_online(6)
        run = party.finish(party.submit(experiment), Path("run"))
        log = "\n".join(party.server.lines)
    assert [row["clients"] for row in run.rows] == [6, 5, 5, 6]
    for round_, stage in ((2, "upload"), (3, "share")):
        (reason,) = run.rows[round_ - 1]["failure-reasons"]
        assert reason.startswith(f"client 1: lost at stage '{stage}'")
        assert f"round {round_}: train: {reason}" in log


@pytest.mark.slow
def test_clients_bring_their_own_data(tmp_path: Path) -> None:
    dealt = setting("rounds=2")
    data = prepare(dealt)
    source = ("data.source=own", f"data.path={tmp_path / 'test.npz'}", "data.classes=10", "rounds=2")
    brought = Experiment.from_toml(BASE.replace('partition = "dirichlet"\nalpha = 0.5\n', ""), source)
    (tmp_path / "own.toml").write_text(brought.to_toml())
    only = ("--only", str(tmp_path / "own.toml"))  # the test set is a file of the server's
    with federation(tmp_path / "federation", 4, options=only) as party:
        for number in range(4):
            share = data.client(number).train
            own = tmp_path / f"own-{number}.npz"
            np.savez(own, x=share.x, y=share.y)  # type: ignore[arg-type]
            party.client(number, "--data", str(own))
        party.wait_until_online(4)
        np.savez(tmp_path / "test.npz", x=data.test.x, y=data.test.y)  # type: ignore[arg-type]
        run = party.finish(party.submit(brought), Path("own"))
    assert [(row["clients"], row["failures"]) for row in run.rows] == [(4, 0)] * 2
    reference = load_file(fedsim.run(dealt, "dealt").path / "model.safetensors")
    weights = load_file(run.path / "model.safetensors")
    assert all(np.array_equal(weights[name], reference[name]) for name in reference)
