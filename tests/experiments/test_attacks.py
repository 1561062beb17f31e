"""The attack gallery: each attack succeeds on its control; on ours those that the modes' documentation lists."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from rich.console import Console

import fedsim.clients.mods.secagg as secagg_mod
from fedsim.experiments.attacks import sessions, weak_seed
from fedsim.experiments.attacks.__main__ import main
from fedsim.experiments.attacks.finding import Finding, recovery
from fedsim.experiments.attacks.gallery import ATTACKS
from fedsim.privacy.secagg.client import ClientSession
from fedsim.privacy.secagg.topology import Adversary

NO_NUMBERS = {"early-dropout"}  # nothing is recovered: the round stops


# What a mode doesn't withstand, as its documentation says. A crafted model is in the sum, whoever adds it up.
SUCCEED = {
    Adversary.SEMI_HONEST: {"dead-lists", "key-swap", "crafted-model"},
    Adversary.MALICIOUS_SERVER: {"crafted-model"},
}


# Why it fails where it fails: the words of a refusal that is the one meant.
REFUSALS = {
    "both-shares": "20 clients refuse; client 0 in stage 'unmask': the session is closed",
    "dead-lists": "have signed the list of uploads: allowed: 11 at least",
    "key-swap": "client 7 in stage 'share': client .* keys are not signed by its registered identity",
    "low-threshold": "20 clients refuse; client 0 in stage 'advertise': threshold = 1: allowed: ",
    "small-cohort": "2 clients refuse; client 0 in stage 'advertise': a cohort of 2: must be from 3",
    "small-subset": "20 clients refuse; client 0 in stage '.*': 10 clients are in the sum: allowed: 19 at least",
    "restart": "19 clients refuse; client 0 in stage 'advertise': round 1: this client has begun round 1",
    "late-upload": "its own mask stays on: .* clients refuse; client 0 in stage 'unmask': the session is closed",
    "replay": "in stage 'upload': a ciphertext was altered, or is not meant for this place",
    "reflection": "20 clients refuse; client 0 in stage 'upload': a ciphertext was altered, or is not meant",
    "weak-seed": "a seed has 256 bits",
    "model-inconsistency": "a ciphertext was altered, or is not meant|7's keys are not signed by its registered",
    "clear-metrics": "weights sum to 2100, mean loss 12",
    "overflow": "twenty times 4.0 is 4.0000; .* sums need 64 bits, of at most 62",
    "early-dropout": "one lost at any stage: the mean of those that uploaded",
    "bit-flip": "the server refuses the upload: its signature does not match .*; the mean of the others",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_control_falls(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weak_seed, "TRIED", 2**16)
    found = ATTACKS[name].control()
    assert found.succeeded, found.what
    assert bool(found.recovered) == (name not in NO_NUMBERS)
    assert (ATTACKS[name].__doc__ or "").count("\nOurs: ") == 1


@pytest.mark.slow
@pytest.mark.parametrize("adversary", Adversary)
@pytest.mark.parametrize("name", ATTACKS)
def test_only_documented_attacks_succeed_on_fedsim(name: str, adversary: Adversary) -> None:
    found = ATTACKS[name].ours(adversary)
    assert found.succeeded == (name in SUCCEED[adversary]), found.what
    if found.succeeded:
        assert found.recovered
    else:
        assert re.search(REFUSALS[name], found.what), found.what


def test_it_is_the_registered_identities_that_stop_the_key_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClientSession, "_check_identities", lambda self, place: None)
    assert (
        not ATTACKS["key-swap"].ours(Adversary.MALICIOUS_SERVER).succeeded
    )  # nor do they sign who has uploaded
    monkeypatch.setattr(ClientSession, "_check_confirmed", lambda self, reader, alive: reader.__init__(b""))
    assert ATTACKS["key-swap"].ours(Adversary.MALICIOUS_SERVER).succeeded


def test_it_is_the_clients_memory_that_stops_the_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secagg_mod, "_check_new", lambda context, session: None)
    assert ATTACKS["restart"].ours(Adversary.MALICIOUS_SERVER).succeeded


@pytest.mark.parametrize("name", ["dead-lists", "key-swap"])
def test_of_the_attacks_on_semi_honest_mode_the_complete_graph_stops_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "GRAPH", "complete")
    found = ATTACKS[name].ours(Adversary.SEMI_HONEST)
    assert found.succeeded == (name == "key-swap")


def test_the_report(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=160)
    main(["both-shares", "dead-lists", "--json", str(tmp_path / "found.json")], console)
    made = json.loads((tmp_path / "found.json").read_text())
    assert list(made) == ["both-shares", "dead-lists"]
    verdicts = {where: found["succeeded"] for where, found in made["dead-lists"]["findings"].items()}
    assert verdicts == {"control": True, "semi-honest": True, "malicious-server": False}
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("succeeds") == 3
    assert printed.count("refused") == 3


def test_an_attack_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["both-halves"])
    assert ended.value.code == 2
    assert "'both-halves': must be of both-shares" in capsys.readouterr().err


def test_a_recovery_that_is_wrong_is_no_success() -> None:
    assert recovery("it", [1.0, 2.0], [1.0, 2.0], 0.0) == Finding(True, "it", [1.0, 2.0], [1.0, 2.0])
    wrong = recovery("it", [1.0, 2.0], [1.0, 2.5], 0.1)
    assert (wrong.succeeded, wrong.error) == (False, 0.5)
    assert wrong.numbers() == "recovered 1.0000, 2.0000; true 1.0000, 2.5000; error at most 5.0e-01 over 2"


def test_the_seeds_that_are_searched_are_those_of_flowers_generator() -> None:
    seeds = np.array([0, 1, 5489, 2**32 - 1], np.uint32)
    words = weak_seed.first_words(seeds, 227)
    for column, seed in zip(words.T, seeds, strict=True):
        (theirs,) = pseudo_rand_gen(int(seed).to_bytes(4, "little"), 2**32, [(227,)])
        assert np.array_equal(column, theirs)


def test_a_search_that_leaves_the_right_seed_out_finds_nothing() -> None:
    seed = 1_000_000
    masks = weak_seed.first_words(np.array([seed], np.uint32), 4)[:, 0].astype(np.int64)
    left = masks + np.array([0, 1, 2**22, 5])
    assert weak_seed.search(left, range(seed - 1000, seed + 1000)) == [seed]
    assert weak_seed.search(left, range(seed + 1, seed + 40_000)) == []
