"""Servers of Flower's legacy API (`server_fn`, `strategy`): a thread for each client, and a client manager that waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flwr.server import server
from flwr.server.client_manager import SimpleClientManager

from fedsim.errors import RunFailed


@contextmanager
def legacy_servers(nodes: int, no_more: str) -> Iterator[None]:
    """Let legacy servers, inside the block, get results by their clients, and refuse to wait for more than these nodes.

    Flower gives the results as the threads end, and their sum has other bits each time. It waits for a day.
    """
    before = server.fit_clients, server.evaluate_clients, SimpleClientManager.wait_for

    def wait_for(manager: SimpleClientManager, num_clients: int, timeout: int = 86400) -> bool:
        if num_clients > nodes:
            raise RunFailed(f"the app waits for {num_clients} nodes: {no_more}")
        return before[2](manager, num_clients, timeout)

    server.fit_clients, server.evaluate_clients = _by_client(before[0]), _by_client(before[1])
    SimpleClientManager.wait_for = wait_for  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        server.fit_clients, server.evaluate_clients = before[:2]
        SimpleClientManager.wait_for = before[2]  # type: ignore[method-assign]


def _by_client(ask: Callable[..., tuple[list[Any], list[Any]]]) -> Callable[..., tuple[list[Any], list[Any]]]:
    def asked(*arguments: Any, **options: Any) -> tuple[list[Any], list[Any]]:
        results, failures = ask(*arguments, **options)
        return sorted(results, key=lambda result: int(result[0].cid)), failures

    return asked
