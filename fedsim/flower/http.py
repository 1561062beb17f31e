"""Flower's HTTP APIs: changing a request before it is sent, and errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext


class Prepared:
    """Has each request of one of Flower's HTTP clients prepared before it is sent: signed, or given headers."""

    def __init__(self, prepare: Callable[[httpx.Request], None]) -> None:
        self._prepare = prepare

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Prepare a request, and send it."""
        self._prepare(context.request)
        return call_next(context)


def is_not_activated(response: httpx.Response) -> bool:
    """Return whether Flower has no node for this client's key or has it online already (the answer doesn't say which)."""
    codes = ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED, ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE
    return _code(response) in codes


def is_other_version(response: httpx.Response) -> bool:
    """Return whether Flower refuses a request because of incompatible Flower versions."""
    return _code(response) == ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE


def error_answer(error: Exception) -> tuple[int, dict[str, Any]] | None:
    """Return the HTTP status and the JSON body with which Flower answers an error; None: it isn't Flower's."""
    if isinstance(error, FlowerError) and (known := API_ERROR_MAP.get(error.code)) is not None:
        return known.http_status_code, error.to_json(known.public_message)
    return None


def _code(response: httpx.Response) -> int | None:
    error = FlowerError.from_json(response.text)
    return None if error is None else error.code
