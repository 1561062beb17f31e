"""What the operator may do with Flower's Control API: start runs that this server admits, list them and stop them.

A run is a bundle without code and an experiment that the server may run; Flower's ServerApp would execute any other bundle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from fedsim.deployment.admission import admitted_experiment
from fedsim.deployment.bundle import RUN_CONFIG, check_bundle
from fedsim.deployment.server.asgi import answer, read_body, replay
from fedsim.experiment import Experiment
from fedsim.flower.control import decode_start
from fedsim.flower.paths import CONTROL, LIST, START, STOP


@dataclass
class Admission:
    """An ASGI app that passes requests on to Flower's app, the operator's only if the server admits them.

    Their bodies were limited, and their caller authenticated, before.
    """

    app: ASGIApp
    only: Sequence[
        Experiment
    ]  # that this server runs; empty: all that name no code and no data of the operator's choice

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path.startswith(CONTROL):
            if path not in (START, LIST, STOP):
                await answer(
                    send, 403, {"error": "an operator may start, list and stop runs, and nothing else"}
                )
                return
            if path == START:
                body = await read_body(scope, receive, float("inf"))
                receive = replay(body, receive)
                try:
                    await asyncio.to_thread(self._admit, body)
                except ValueError as error:
                    await answer(send, 403, {"error": " ".join(str(error).split())})
                    return
        await self.app(scope, receive, send)

    def _admit(self, body: bytes) -> None:
        """Raise `ValueError`, which says why, for a request to start a run that this server does not admit."""
        fab, config = decode_start(body)
        try:
            check_bundle(fab)
        except ValueError as error:
            raise ValueError(f"its bundle is not one of fedsim's: {error}") from None
        admitted_experiment({**RUN_CONFIG, **config}, self.only, "server")
