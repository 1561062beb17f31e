"""Where a server listens, and where its own machine reaches it."""

import socket

import pytest

from fedsim.deployment.server.sockets import listen, own_address
from fedsim.deployment.wire import is_loopback
from fedsim.errors import Refused


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("localhost.example.org", False),
    ],
)
def test_what_reaches_this_machine_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


@pytest.mark.parametrize(
    ("host", "addresses", "own"),
    [
        ("127.0.0.1", ["127.0.0.1"], "127.0.0.1"),
        ("0.0.0.0", ["0.0.0.0"], "127.0.0.1"),
        ("127.0.0.2", ["127.0.0.2", "127.0.0.1"], "127.0.0.1"),
        ("::1", ["::1"], "[::1]"),
        ("::", ["::"], "[::1]"),
    ],
)
def test_its_own_machine_reaches_a_server_by_an_address_in_its_certificate(
    host: str, addresses: list[str], own: str
) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    sockets = listen(host, 0)
    try:
        assert [s.getsockname()[0] for s in sockets] == addresses
        [port] = {s.getsockname()[1] for s in sockets}
        assert own_address(sockets) == f"{own}:{port}"
    finally:
        for opened in sockets:
            opened.close()


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=f"^--host '127.0.0.1' --port {port}: Address already in use$"):
            listen("127.0.0.1", port)
        with pytest.raises(Refused, match=f"^--port {port}: on 127.0.0.1: Address already in use$"):
            listen("127.0.0.2", port)
