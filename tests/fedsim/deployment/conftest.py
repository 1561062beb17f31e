"""Flower's state, made once a module, and a message relay over it."""

from collections.abc import Iterator
from typing import Any

import pytest

from fedsim.flower.superlink import open_superlink
from tests.support.deployment.post import Post


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Yield Flower's state over a database, which it takes most of a second to make."""
    superlink = open_superlink(tmp_path_factory.mktemp("state") / "superlink.db", b"", has_keys=True)
    state = superlink.app.state.linkstate_factory.state()
    yield state
    state._engine.dispose()


@pytest.fixture
def post(state: Any) -> Post:
    return Post(state, 2)
