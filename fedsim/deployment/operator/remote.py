"""The operator's connection to a server: Flower's Control API, and the run directories."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Self

import httpx

from fedsim.deployment.certificates import trusting
from fedsim.deployment.credential import OperatorAuth, sign_request
from fedsim.deployment.keys import OperatorKeys
from fedsim.deployment.operator.run_copy import Listing
from fedsim.deployment.wire import Address
from fedsim.errors import Refused, RunFailed
from fedsim.flower.control import ControlApi, FlowerRun

TIMEOUT = 30.0  # seconds without an answer after which a server counts as unreachable
RUNS = 1000  # how many of the latest runs are searched for a name


class Unreachable(Exception):
    """The server doesn't answer at the moment; the message says why."""


class Remote:
    """A connection to a server, with the operator's key.

    Every method raises `Refused` where the server refuses the request, and `Unreachable` where nothing answers or the
    server has an internal error. Without keys, it must be on this machine and have been started with `--insecure`.
    """

    def __init__(self, address: Address, keys: OperatorKeys | None) -> None:
        if keys is None and not address.is_loopback:
            raise Refused(f"--insecure: is for this machine alone; --on {address} needs --keys")
        self.address = address
        base = f"{'http' if keys is None else 'https'}://{address}"
        verify = trusting(None if keys is None else keys.root_certificates)
        sign = None if keys is None else partial(sign_request, keys.key)
        self._control = ControlApi(base, sign, verify, TIMEOUT)
        auth = None if keys is None else OperatorAuth(keys.key)
        self._http = httpx.Client(base_url=base, auth=auth, verify=verify, timeout=TIMEOUT)

    @classmethod
    def connect(cls, address: str, keys: Path | None, *, insecure: bool = False) -> Remote:
        """Return a connection from the options `--on`, `--keys` and `--insecure`; nothing is sent yet."""
        if insecure and keys is not None:
            raise Refused(f"--keys {str(keys)!r}: can't stand beside --insecure; allowed: one of them")
        if not insecure and keys is None:
            raise Refused("--keys: the operator's folder is needed, which `fedsim keys` makes")
        return cls(Address.parse(address), None if keys is None else OperatorKeys.load(keys))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._http.close()

    def start_run(self, bundle: bytes, config: Mapping[str, Any], series_id: int | None = None) -> FlowerRun:
        """Start a run of a bundle, in a new series or in one that exists."""
        with self._asking():
            run = self._control.start_run(bundle, config, series_id)
        if run is None:
            raise Refused(f"{self.address}: the server did not start the run; its log says why")
        return run

    def stop_run(self, run_id: int) -> None:
        """Stop a run at once."""
        with self._asking():
            has_stopped = self._control.stop_run(run_id)
        if not has_stopped:
            raise RunFailed(f"{self.address}: the server could not stop run {run_id}")

    def flower_run(self, run_id: int) -> FlowerRun:
        """Return a run of Flower's."""
        with self._asking():
            return self._control.run(run_id)

    def latest(self, name: str) -> FlowerRun:
        """Return the latest of the runs that write the run directory `name`: the run itself, or one that resumes it."""
        with self._asking():
            runs = self._control.runs(RUNS)
        for run in runs:
            if run.config.get("run-name") == name:
                return run
        raise Refused(f"run {name!r}: there is none at {self.address}")

    def server(self) -> dict[str, Any]:
        """Return the server's version, the digest of its code, and its clients."""
        with self._asking():
            tree: dict[str, Any] = self._http.get("/fedsim/server").raise_for_status().json()
        return tree

    def listing(self, name: str) -> Listing | None:
        """Return the files of a run's directory; None: it doesn't exist yet."""
        with self._asking():
            answer = self._http.get(f"/fedsim/runs/{name}")
            if answer.status_code == HTTPStatus.NOT_FOUND:
                return None
            tree = answer.raise_for_status().json()
        return Listing(tree["manifest"], tree["files"]) if tree["manifest"] else None

    def fetch(self, name: str, file: str, offset: int, into: BinaryIO) -> None:
        """Write the bytes of a run's file from `offset` on into an open file."""
        target, parameters = f"/fedsim/runs/{name}/files/{file}", {"offset": str(offset)}
        with self._asking(), self._http.stream("GET", target, params=parameters) as answer:
            if answer.is_error:
                answer.read()
            for chunk in answer.raise_for_status().iter_bytes():
                into.write(chunk)

    def ask_to_stop(self, name: str) -> bool:
        """Have a run end after its current round; False: it has no directory yet."""
        with self._asking():
            answer = self._http.post(f"/fedsim/runs/{name}/stop")
            if answer.status_code == HTTPStatus.NOT_FOUND:
                return False
            answer.raise_for_status()
        return True

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn an error of a request into `Refused` or `Unreachable`, with a message of one line."""
        try:
            yield
        except httpx.HTTPStatusError as error:
            reason = _reason(error.response)
            if error.response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise Unreachable(reason) from None
            raise Refused(f"{self.address}: the server refuses: {reason}") from None
        except httpx.TransportError as error:
            if (why := _tls_problem(error)) is not None:
                raise Refused(f"--on {self.address}: {why}") from None
            raise Unreachable(_text_of(error)) from None


def _reason(answer: httpx.Response) -> str:
    """Return the reason in the body of a refusal, by fedsim or by Flower."""
    try:
        tree = answer.json()
    except ValueError:
        tree = {}
    fields = tree if isinstance(tree, Mapping) else {}
    reason = fields.get("error") or fields.get("public_message") or fields.get("detail")
    return str(reason or f"HTTP status {answer.status_code}")


def _tls_problem(error: httpx.TransportError) -> str | None:
    """Return the problem with the server's TLS; None: the error has another cause."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.partition("certificate verify failed: ")[2].partition(" (_ssl.c")[0]
        return f"its certificate is not one to trust by the ca.pem in --keys: {reason or text}"
    if any(sign in text for sign in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")):
        return "what listens there does not speak TLS"
    return None


def _text_of(error: httpx.TransportError) -> str:
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)).lower() or type(error).__name__
