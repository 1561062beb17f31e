"""Limits on processes for a key, on clients and on joins, with a clock that the test sets."""

import pytest

from fedsim.deployment.server.asgi import HttpDenied
from fedsim.deployment.server.clients import Presence


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def status(call: object, *arguments: object) -> int:
    with pytest.raises(HttpDenied) as error:
        call(*arguments)  # type: ignore[operator]
    return error.value.status


def test_another_process_waits_until_the_first_was_not_heard_of_for_15_seconds(clock: Clock) -> None:
    presence = Presence(now=clock)
    presence.check(b"key", "a")
    presence.check(b"key", "b")  # neither was served yet
    presence.served(b"key", "a")
    clock.now = 14.0
    assert status(presence.check, b"key", "b") == 409
    presence.check(b"other key", "b")
    presence.check(b"key", "a")  # heard of again
    clock.now = 28.0
    assert status(presence.check, b"key", "b") == 409
    clock.now = 29.0
    presence.check(b"key", "b")
    presence.served(b"key", "b")
    assert status(presence.check, b"key", "a") == 409


def test_a_key_is_free_once_its_process_has_left(clock: Clock) -> None:
    presence = Presence(now=clock)
    presence.served(b"key", "a")
    presence.left(b"key")
    presence.check(b"key", "b")


def test_no_more_than_so_many_clients_are_present(clock: Clock) -> None:
    presence = Presence(max_nodes=2, now=clock)
    for key in (b"1", b"2"):
        presence.check_join(key)
        presence.served(key, "")
    assert status(presence.check_join, b"3") == 403
    presence.check_join(b"2")  # it is there already
    presence.left(b"1")
    presence.check_join(b"3")
    presence.served(b"3", "")
    assert status(presence.check_join, b"4") == 403
    clock.now = 60.0  # nobody was heard of for a minute
    presence.check_join(b"4")


def test_no_more_than_so_many_joins_a_minute(clock: Clock) -> None:
    presence = Presence(joins_per_minute=2, now=clock)
    presence.check_join(b"1")
    clock.now = 30.0
    presence.check_join(b"1")
    clock.now = 59.9
    assert status(presence.check_join, b"2") == 429
    clock.now = 60.0
    presence.check_join(b"2")
    assert status(presence.check_join, b"2") == 429
