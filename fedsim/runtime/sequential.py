"""The reference engine: in this process, one client after another."""

from __future__ import annotations

from concurrent.futures import Future

from flwr.app import Context, Message

from fedsim.runtime.grid import ClientsGrid
from fedsim.runtime.spec import AppSpec, answer


class SequentialGrid(ClientsGrid):
    """Slow and obvious; what the other engines are tested against."""

    def __init__(self, spec: AppSpec) -> None:
        super().__init__(spec)
        self._app = spec.load()

    def _submit(self, message: Message, context: Context) -> Future[Message]:
        done: Future[Message] = Future()
        done.set_result(answer(self._app, message, context))
        return done
