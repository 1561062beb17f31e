"""The operator's credential: valid for one request, once, within a minute."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedsim.deployment.credential import HEADER, OperatorAuth, Verifier, sign

KEY = Ed25519PrivateKey.generate()
REQUEST = ("POST", "/v1/control/start-run?x=1", b"body")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verifier(clock: Clock) -> Verifier:
    return Verifier(KEY.public_key(), clock)


def test_a_signed_request_is_taken_once(verifier: Verifier) -> None:
    header = sign(KEY, *REQUEST)[HEADER]
    verifier.check(*REQUEST, header)
    with pytest.raises(ValueError, match="used before"):
        verifier.check(*REQUEST, header)
    verifier.check(*REQUEST, sign(KEY, *REQUEST)[HEADER])


@pytest.mark.parametrize(
    "other",
    [("GET", *REQUEST[1:]), ("POST", "/v1/control/start-run?x=2", b"body"), (*REQUEST[:2], b"bodY")],
)
def test_it_is_good_for_that_request_alone(verifier: Verifier, other: tuple[str, str, bytes]) -> None:
    header = sign(KEY, *REQUEST)[HEADER]
    with pytest.raises(ValueError, match="of another request"):
        verifier.check(*other, header)
    verifier.check(*REQUEST, header)  # a forger can't use up the nonce


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_changed_part_of_the_header_is_refused(verifier: Verifier, part: int) -> None:
    mine, other = (sign(KEY, *REQUEST)[HEADER].split(";") for _ in range(2))
    mine[part] = other[part]
    with pytest.raises(ValueError, match="not the operator's"):
        verifier.check(*REQUEST, ";".join(mine))


def test_another_key_is_refused(verifier: Verifier) -> None:
    header = sign(Ed25519PrivateKey.generate(), *REQUEST)[HEADER]
    with pytest.raises(ValueError, match="not the operator's"):
        verifier.check(*REQUEST, header)


@pytest.mark.parametrize("ahead", [66, -66])
def test_another_time_is_refused(clock: Clock, ahead: int) -> None:
    clock.ahead = timedelta(seconds=min(ahead, 0))
    verifier = Verifier(KEY.public_key(), clock)
    clock.ahead = timedelta(seconds=ahead)
    with pytest.raises(ValueError, match=f"signed {ahead} s ago"):
        verifier.check(*REQUEST, sign(KEY, *REQUEST)[HEADER])


def test_nonces_are_remembered_for_as_long_as_they_are_good(verifier: Verifier, clock: Clock) -> None:
    header = sign(KEY, *REQUEST)[HEADER]
    verifier.check(*REQUEST, header)
    for seconds in (1, 30, 64):
        clock.ahead = timedelta(seconds=seconds)
        verifier.check(*REQUEST, sign(KEY, *REQUEST)[HEADER])
        with pytest.raises(ValueError, match="used before"):
            verifier.check(*REQUEST, header)


def test_what_a_server_took_before_its_restart_is_refused(verifier: Verifier) -> None:
    header = sign(KEY, *REQUEST)[HEADER]
    verifier.check(*REQUEST, header)
    with pytest.raises(ValueError, match="before this server was started"):
        Verifier(KEY.public_key()).check(*REQUEST, header)


@pytest.mark.parametrize("header", ["", ";;", "a;b;c", "x", ";".join(["2026-01-01T00:00:00", "00" * 16, ""])])
def test_a_malformed_header_is_refused(verifier: Verifier, header: str) -> None:
    with pytest.raises(ValueError, match="missing" if not header else "malformed"):
        verifier.check(*REQUEST, header)


def test_httpx_signs_what_it_sends(verifier: Verifier) -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        target = request.url.raw_path.decode()
        verifier.check(request.method, target, request.content, request.headers[HEADER])
        return httpx.Response(200)

    with httpx.Client(transport=httpx.MockTransport(serve), auth=OperatorAuth(KEY)) as client:
        assert client.get("https://a/fedsim/runs/a%20b/files/c?offset=3").status_code == 200
        assert client.post("https://a/x", content=b"123").status_code == 200
