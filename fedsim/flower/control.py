"""The operator's side of Flower's Control API, over HTTP: start, stop and list runs."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from flwr.app import UserConfig
from flwr.common.constant import Status, SubStatus
from flwr.common.serde import fab_to_proto, user_config_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest, StopRunRequest
from flwr.proto.run_pb2 import Run as ProtoRun
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fedsim.flower.http import Prepared


@dataclass(frozen=True)
class FlowerRun:
    """A run in Flower's database."""

    run_id: int
    series_id: int  # of a run and those that resume it
    config: Mapping[str, Any]  # the run config that it was started with
    is_finished: bool  # whether its ServerApp has ended
    outcome: str  # `completed`, `failed` or `stopped`; empty before the ServerApp has ended
    details: str  # why it failed

    @property
    def was_stopped(self) -> bool:
        """Whether the operator has stopped it at once."""
        return self.outcome == SubStatus.STOPPED

    @classmethod
    def decode(cls, proto: ProtoRun) -> FlowerRun:
        """Return a run from its protobuf message."""
        status = proto.status
        return cls(
            proto.run_id,
            proto.series_id,
            user_config_from_proto(proto.override_config),
            status.status == Status.FINISHED,
            status.sub_status,
            status.details.removeprefix("ServerApp failed with exception: ").strip(),
        )


def decode_start(body: bytes) -> tuple[bytes, UserConfig]:
    """Return the bundle (FAB) and the run config of a request to start a run, as `ControlApi.start_run` sends it.

    Raises `ValueError` for any other: an app that is on Flower's hub, a simulation, a federation by name.
    """
    try:
        request = StartRunRequest.FromString(body)
    except DecodeError:
        raise ValueError("is no request to start a run") from None
    odd = {field.name for field, _ in request.ListFields()} - {"fab", "override_config", "series_id"}
    if odd:
        raise ValueError(f"{min(odd)}: is nothing that a run of fedsim has")
    return request.fab.content, user_config_from_proto(request.override_config)


class ControlApi:
    """Requests of the operator.

    Every method raises `httpx.HTTPStatusError` for a refusal, and `httpx.TransportError` where nothing answers.

    `sign` adds the operator's credential to a request (None: the server asks for none); `verify` checks the server's
    certificate; `timeout` is each request's, in seconds.
    """

    def __init__(
        self,
        url: str,
        sign: Callable[[httpx.Request], None] | None,
        verify: ssl.SSLContext | bool,
        timeout: float,
    ) -> None:
        interceptors = [] if sign is None else [Prepared(sign)]
        self._http = ControlHttpClient(url, interceptors=interceptors, verify=verify, timeout=timeout)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def start_run(self, bundle: bytes, config: Mapping[str, Any], series_id: int | None) -> FlowerRun | None:
        """Start a run of a bundle (FAB), in a new series or in one that exists; None: the server did not start it."""
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(config)), series_id=series_id
        )
        answer = self._http.StartRun(request)
        return FlowerRun(answer.run_id, answer.series_id, config, False, "", "") if answer.run_id else None

    def stop_run(self, run_id: int) -> bool:
        """Stop a run at once; return whether the server could."""
        return bool(self._http.StopRun(StopRunRequest(run_id=run_id)).success)

    def run(self, run_id: int) -> FlowerRun:
        """Return a run."""
        return FlowerRun.decode(self._http.ListRuns(ListRunsRequest(run_id=run_id)).run_dict[run_id])

    def runs(self, limit: int) -> list[FlowerRun]:
        """Return the latest runs, the newest first."""
        found = self._http.ListRuns(ListRunsRequest(limit=limit)).run_dict.values()
        newest_first = sorted(found, key=lambda run: str(run.pending_at), reverse=True)
        return [FlowerRun.decode(run) for run in newest_first]
