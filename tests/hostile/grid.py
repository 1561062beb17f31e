"""Simulations in which some clients are hostile: what they answer comes as if from another machine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from flwr.app import Context, Message

import fedsim
from fedsim import Experiment
from fedsim.runtime import AppSpec, SequentialGrid
from fedsim.secagg.messages import record_of_stage
from tests.hostile.behaviours import Behaviour, answered
from tests.support.grids import run_over

Hostile = Mapping[int, Behaviour]  # by client


class HostileGrid(SequentialGrid):
    """A Grid of clients of which some answer messages of a type, at a stage of secure aggregation if named, as they like."""

    def __init__(self, spec: AppSpec, hostile: Hostile, type_: str = "train", stage: str = "") -> None:
        super().__init__(spec)
        honest = self._app

        def answer(message: Message, context: Context) -> Message:
            asked = record_of_stage(message) if type_ == "train" else None
            reply = honest(message, context)  # takes the stage out of the message
            behaviour = hostile.get(int(context.node_config["partition-id"]))
            if behaviour is None or message.metadata.message_type != type_:
                return reply
            if stage and (asked is None or asked[1].value != stage):
                return reply
            return answered(reply, behaviour)

        self._app = answer  # type: ignore[assignment]


def run_with(
    hostile: Hostile, setting: Experiment, out: str | Path, type_: str = "train", stage: str = ""
) -> fedsim.Run:
    """Run an experiment in which some clients are hostile."""
    return run_over(partial(HostileGrid, hostile=hostile, type_=type_, stage=stage), setting, out)
