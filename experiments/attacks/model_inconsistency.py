"""A server sends the model to the victim, and a dead one to all others.

With the biases of its hidden layer far below zero a network's ReLUs give zero for every input, and so is its
gradient. The sum of one true update and many zeros is that update (Pasquini, Francati, Ateniese: "Eluding secure
aggregation in federated learning via model inconsistency", CCS 2022).

Ours: the session is bound to the hash of the model that a client trained on. Clients with different models have
different sessions, so their masks don't cancel. (One crafted model for all: `crafted_model`.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from fedsim.experiments.attacks import flower, sessions
from fedsim.experiments.attacks.finding import Finding, recovery
from fedsim.experiments.benchmarks.flower_secagg import COLLECT, Cohort, Update
from fedsim.privacy.secagg.spec import RoundSpec
from fedsim.privacy.secagg.topology import Adversary
from fedsim.privacy.secagg.transcript import beginning
from fedsim.streams import numpy_stream

CONTROL = f"{flower.FLOWER}, a network with one hidden layer"
INPUTS, HIDDEN = 4, 8
SIZE = INPUTS * HIDDEN + HIDDEN + HIDDEN  # weights and biases of the hidden layer, weights of the output


@dataclass(frozen=True)
class Learner:
    """A client with ten records: one step of gradient descent on the squared error."""

    client: int

    def __call__(self, model: NDArray[np.float64]) -> Update:
        """Return the negative gradient at a model, of shape (SIZE,)."""
        stream = numpy_stream(0, "records", client=self.client)
        x, y = stream.normal(size=(10, INPUTS)), stream.normal(size=10)
        first, bias, last = np.split(model, [INPUTS * HIDDEN, INPUTS * HIDDEN + HIDDEN])
        before = x @ first.reshape(INPUTS, HIDDEN) + bias
        hidden = np.maximum(before, 0)
        error = (hidden @ last - y) / len(x)
        back = np.outer(error, last) * (before > 0)
        return Update(-np.concatenate([(x.T @ back).ravel(), back.sum(0), hidden.T @ error]), 10)


def models() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a model, and the same with a dead hidden layer."""
    alive = numpy_stream(0, "model").normal(size=SIZE)
    dead = alive.copy()
    dead[INPUTS * HIDDEN : INPUTS * HIDDEN + HIDDEN] = -1000.0
    return alive, dead


def control() -> Finding:
    """Let Flower's server send two models."""
    alive, dead = models()

    def dead_to_others(stage: str, node: int, content: RecordDict) -> None:
        if stage == COLLECT and node != flower.VICTIM:
            content.array_records["fitins.parameters"] = other

    learners = {node: Learner(node) for node in flower.NODES}
    other = flower.model_record(dead)
    outcome = Cohort(learners).round(alive, tamper=dead_to_others)
    if outcome.mean is None:
        return Finding(False, f"halted: {outcome.log}")
    what = f"{len(outcome.client_errors)} clients object; the 'mean' of six is a sixth of the victim's update"
    return recovery(what, outcome.mean * 6, Learner(flower.VICTIM)(alive).vector, flower.TOLERANCE)


class ManyModels(sessions.Attacker):
    """Invites each client to the round of its own model."""

    def spec_for(self, client: int) -> RoundSpec:
        """Return a client's specification."""
        return (
            self.spec if client == sessions.VICTIM else replace(self.spec, task=sessions.task_of(models()[1]))
        )

    def _request(self, client: int) -> bytes:
        told = self.spec_for(client)
        if told is self.spec or client in self._keys:
            return super()._request(client)
        self._transcripts[client] = beginning(told, client)
        return told.dumps()


def ours(adversary: Adversary) -> Finding:
    """Send two models, and each client the hash of its own."""
    alive, dead = models()
    rule = sessions.policy(adversary, SIZE)
    server = ManyModels(sessions.spec_of(rule, alive), sessions.CLIENTS, registry=rule.registry)
    clients = sessions.parties(rule, {client: Learner(client) for client in sessions.CLIENTS})
    outcome = sessions.run(
        server, clients, model_of=lambda client: alive if client == sessions.VICTIM else dead
    )
    if not outcome.failed:
        found = rule.encoding.decode(server.total(), len(server.uploaded))
        what = "the victim's update, from a sum with zeros"
        return recovery(what, found.update * len(clients), Learner(sessions.VICTIM)(alive).vector, 0.01)
    return sessions.refused(outcome)
