import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedsim.privacy.secagg import encoding as encoding_module
from fedsim.privacy.secagg.encoding import Encoding

PIECE = 1 << 15  # coordinates that are encoded at a time
DTYPES = (np.float16, np.float32, np.float64)


def stream(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def numbers(seed: int, size: int, *, scale: float = 1.0, dtype: type = np.float32) -> NDArray[Any]:
    return (stream(seed).normal(size=size) * scale).astype(dtype)


def bound(encoding: Encoding) -> int:
    return 2 ** (encoding.input_bits - 1) - 1


@st.composite
def encodings(draw: st.DrawFn) -> Encoding:
    return Encoding(
        draw(st.integers(1, 40)),
        cohort=draw(st.integers(1, 10) | st.just(10**6)),
        input_bits=draw(st.integers(2, 32)),
        clip=draw(st.floats(1e-3, 1e3)),
        max_weight=draw(st.sampled_from([1, 2, 100, 10**6])),
        metrics=draw(st.sampled_from([(), ("loss",), ("loss", "accuracy")])),
    )


# The ring


@pytest.mark.parametrize(
    ("cohort", "bits"),
    [(100, 23), (1000, 26), (10**4, 30), (65_537, 32), (65_539, 33), (10**5, 33), (10**6, 36)],
)
def test_bits_of_a_ring_for_16_bit_inputs(cohort: int, bits: int) -> None:
    assert Encoding(1, cohort=cohort).ring.bits == bits


@given(st.integers(2, 16), st.integers(3, 30))
def test_the_largest_cohort_of_a_ring_just_fits_and_one_more_client_does_not(p: int, bits: int) -> None:
    most = (2 ** (bits - 1) - 1) // (2 ** (p - 1) - 1)
    if most < 1:
        return
    encoding = Encoding(1, cohort=most, input_bits=p)
    ring = encoding.ring
    assert ring.bits <= bits < Encoding(1, cohort=most + 1, input_bits=p).ring.bits
    for extreme in (1.0, -1.0):
        one = encoding.encode(np.array([extreme]), 1, {}, stream(0))
        total = one * one.dtype.type(most)
        assert ring.centred(total)[0] == extreme * most * bound(encoding)
        assert encoding.decode(total, most).update.tolist() == [extreme]


@pytest.mark.parametrize(
    ("p", "cohort", "bits"), [(2, 2**20 - 1, 21), (3, 5, 5), (5, 17, 9), (16, 32_769, 31)]
)
def test_a_sum_of_exactly_half_the_ring_less_one(p: int, cohort: int, bits: int) -> None:
    encoding = Encoding(1, cohort=cohort, input_bits=p)
    assert (encoding.ring.bits, cohort * bound(encoding)) == (bits, 2 ** (bits - 1) - 1)
    one = encoding.encode(np.array([1.0]), 1, {}, stream(0))
    assert encoding.ring.centred(one * one.dtype.type(cohort))[0] == 2 ** (bits - 1) - 1
    # The control: in that ring one client more wraps around.
    assert encoding.ring.centred(one * one.dtype.type(cohort + 1))[0] < 0


def test_sums_that_no_ring_holds_are_refused_with_what_to_change() -> None:
    with pytest.raises(ValueError, match="sums need 63 bits, of at most 62") as refusal:
        Encoding(1, cohort=2**31, input_bits=32)
    assert str(refusal.value) == (
        "cohort = 2147483648, input_bits = 32: sums need 63 bits, of at most 62; "
        "allowed: a cohort of at most 1073741824, or at most 31 input bits"
    )
    assert Encoding(1, cohort=1_073_741_824, input_bits=32).ring.bits == 62
    assert Encoding(1, cohort=2**31, input_bits=31).ring.bits == 62
    with pytest.raises(ValueError, match="sums need 63 bits"):
        Encoding(1, cohort=1_073_741_825, input_bits=32)


# Rounding


def fixed_point_by_hand(
    encoding: Encoding, update: NDArray[Any], weight: int, rounding: np.random.Generator
) -> list[int]:
    """Round a float64 update with Python's integers and the stream in one piece."""
    points = 16 if encoding.input_bits <= 16 else 32
    size = points // 8 * len(update)
    raw = Cipher(algorithms.AES(rounding.bytes(32)), modes.CTR(bytes(16))).encryptor().update(bytes(size))
    draws = np.frombuffer(raw, dtype=f"<u{points // 8}").tolist()
    most = bound(encoding) << points
    scale = most * (weight / encoding.max_weight) / encoding.clip
    clipped = np.clip(update, -encoding.clip, encoding.clip).tolist()
    scaled = (max(-most, min(most, round(x * scale))) for x in clipped)
    return [(number + draw) >> points for number, draw in zip(scaled, draws, strict=True)]


@given(encodings(), st.integers(0, 99), st.floats(0, 1))
def test_rounding_is_that_of_python_integers(encoding: Encoding, seed: int, part: float) -> None:
    update = numbers(seed, encoding.dimension, scale=encoding.clip / 2, dtype=np.float64)
    weight = max(1, int(part * encoding.max_weight))
    vector = encoding.encode(update, weight, dict.fromkeys(encoding.metrics, 0.0), stream(seed))
    coordinates = encoding.ring.centred(vector)[: encoding.dimension].tolist()
    assert coordinates == fixed_point_by_hand(encoding, update, weight, stream(seed))


@pytest.mark.parametrize("p", [16, 24])
@pytest.mark.parametrize("dimension", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 5])
def test_long_updates_are_rounded_as_short_ones(dimension: int, p: int) -> None:
    encoding = Encoding(dimension, cohort=3, input_bits=p)
    update = numbers(0, dimension, scale=0.5, dtype=np.float64)
    vector = encoding.encode(update, 1, {}, stream(1))
    assert encoding.ring.centred(vector)[:dimension].tolist() == fixed_point_by_hand(
        encoding, update, 1, stream(1)
    )
    assert encoding.decode(vector, 1).clipped == np.count_nonzero(np.abs(update) > 1) > 0


@given(encodings(), st.sampled_from(DTYPES), st.integers(0, 99), st.floats(0, 1))
def test_a_coordinate_is_off_by_one_step_at_most(
    encoding: Encoding, dtype: type, seed: int, part: float
) -> None:
    update = numbers(seed, encoding.dimension, scale=encoding.clip / 2, dtype=dtype)
    weight = max(1, int(part * encoding.max_weight))
    vector = encoding.encode(update, weight, dict.fromkeys(encoding.metrics, 0.0), stream(seed))
    coordinates = encoding.ring.centred(vector)[: encoding.dimension]
    clipped = np.clip(update.astype(np.float64), -encoding.clip, encoding.clip)
    exact = clipped / encoding.clip * (weight / encoding.max_weight) * bound(encoding)
    assert np.abs(coordinates).max() <= bound(encoding)
    arithmetic = 2.0**-17 + np.abs(exact) * (2.0**-22 if encoding.input_bits <= 16 else 2.0**-50)
    assert np.all(np.abs(coordinates - exact) <= 1 + arithmetic)


@pytest.mark.parametrize("p", [2, 16, 17, 32])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_clip_makes_a_coordinate_larger_than_the_bound(p: int, dtype: type) -> None:
    # Where clip times scale is rounded up, B and nearly one are rounded to B + 1: not once in 4,096 draws.
    for clip in np.geomspace(1e-3, 1e3, 64).tolist():
        encoding = Encoding(4096, cohort=1, input_bits=p, clip=clip)
        for sign in (1, -1):
            vector = encoding.encode(np.full(4096, 2 * sign * clip, dtype=dtype), 1, {}, stream(0))
            coordinates = encoding.ring.centred(vector)[:4096]
            assert set(coordinates.tolist()) <= {sign * bound(encoding), sign * (bound(encoding) - 1)}


@given(st.floats(-1, 1), st.sampled_from(DTYPES), st.integers(2, 16), st.integers(1, 100))
def test_the_expected_integer_is_the_number(x: float, dtype: type, p: int, weight: int) -> None:
    # Exact: with each of the 65,536 draws once, in place of the stream.
    def all_draws(*_: object, **__: object) -> list[NDArray[np.uint8]]:
        draws = np.arange(2**16).astype("<u2")
        return [draws[:PIECE].view(np.uint8), draws[PIECE:].view(np.uint8)]

    encoding = Encoding(2**16, cohort=1, input_bits=p, max_weight=100)
    update = np.full(2**16, x, dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding_module, "key_stream", all_draws)
        vector = encoding.encode(update, weight, {}, stream(0))
    coordinates = encoding.ring.centred(vector)[: 2**16]
    exact = Fraction(float(update[0])) * Fraction(weight, 100) * bound(encoding)
    bias = abs(Fraction(int(coordinates.sum()), 2**16) - exact)
    assert bias <= Fraction(1, 2**17) + abs(exact) / 2**22


def test_the_stream_rounds_without_bias_and_rint_and_floor_do_not() -> None:
    encoding = Encoding(2**18, cohort=1)
    rounders: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "ours": lambda x: encoding.ring.centred(encoding.encode(x, 1, {}, stream(7)))[: 2**18],
        "rint": lambda x: np.rint(x.astype(np.float64) * bound(encoding)),
        "floor": lambda x: np.floor(x.astype(np.float64) * bound(encoding)),
    }
    worst = {}
    for name, rounder in rounders.items():
        scores = []
        for number in (-1000.9, -3.4, -0.02, 0.1, 0.5, 2.3, 777.75):
            update = np.full(2**18, number / bound(encoding), dtype=np.float32)
            fraction = number % 1
            deviation = np.sqrt(fraction * (1 - fraction) / 2**18)
            scores.append(abs(rounder(update).mean() - number) / deviation)
        worst[name] = max(scores)
    assert worst["ours"] < 5  # standard deviations; seven normals exceed it with probability 4e-6
    assert worst["rint"] > 100
    assert worst["floor"] > 100


def test_roundings_of_neighbours_and_of_clients_are_independent() -> None:
    encoding = Encoding(2**16, cohort=2)
    update = np.full(2**16, 0.5 / bound(encoding), dtype=np.float32)
    first, second = (
        encoding.ring.centred(encoding.encode(update, 1, {}, stream(s)))[: 2**16] for s in (1, 2)
    )
    signs = 2 * first - 1
    for other in (2 * second - 1, np.roll(signs, 1), np.roll(signs, 2), np.roll(signs, PIECE)):
        assert abs(int(signs @ other)) < 5 * 2**8
    assert abs(int(signs @ signs)) == 2**16  # the control


@given(encodings(), st.integers(0, 99))
def test_what_is_drawn_depends_on_the_state_alone(encoding: Encoding, seed: int) -> None:
    metrics = dict.fromkeys(encoding.metrics, 1.0)
    update = numbers(seed, encoding.dimension, scale=encoding.clip / 2)
    generators = [stream(seed) for _ in range(3)]
    first = encoding.encode(update, 1, metrics, generators[0])
    again = encoding.encode(update, 1, metrics, generators[1])
    encoding.encode(-3 * update, encoding.max_weight, dict.fromkeys(encoding.metrics, 0.0), generators[2])
    assert first.tobytes() == again.tobytes()
    assert len({generator.bytes(16) for generator in generators}) == 1


def test_other_states_give_other_bits() -> None:
    encoding = Encoding(1000, cohort=1)
    update = numbers(0, 1000, scale=0.1)
    generator = stream(0)
    assert len({encoding.encode(update, 1, {}, generator).tobytes() for _ in range(10)}) == 10


def test_how_an_update_lies_in_memory_does_not_matter() -> None:
    encoding = Encoding(1000, cohort=1)
    update = numbers(0, 1000)
    update.flags.writeable = False
    plain = encoding.encode(update, 1, {}, stream(0))
    assert encoding.encode(np.repeat(update, 3)[::3], 1, {}, stream(0)).tobytes() == plain.tobytes()


# The mean


@given(st.data())
def test_a_sum_decodes_to_the_weighted_mean_of_the_rounded_integers(data: st.DataObject) -> None:
    encoding = data.draw(encodings())
    clients = data.draw(st.integers(1, min(encoding.cohort, 6)))
    weights = data.draw(
        st.lists(st.integers(1, encoding.max_weight), min_size=clients, max_size=clients), label="weights"
    )
    value = st.floats(-1e6, 1e6) | st.sampled_from([2.0**31, -(2.0**31), 0.0, -(2.0**-20), 1e-30])
    reports = [{name: data.draw(value) for name in encoding.metrics} for _ in weights]
    updates = [numbers(i, encoding.dimension, scale=encoding.clip / 2) for i in range(clients)]
    vectors = [
        encoding.encode(update, weight, report, stream(i))
        for i, (update, weight, report) in enumerate(zip(updates, weights, reports, strict=True))
    ]
    integers = [encoding.ring.centred(vector)[: encoding.dimension].tolist() for vector in vectors]
    data.draw(st.randoms(), label="order").shuffle(vectors)
    total = encoding.ring.zeros(encoding.length)
    for vector in vectors:
        encoding.ring.add(total, encoding.ring.unpack(encoding.ring.pack(vector), encoding.length))
    decoded = encoding.decode(total, clients)

    assert (decoded.weight, decoded.clients) == (sum(weights), clients)
    exact_updates = np.array(updates, dtype=np.float64)
    assert decoded.clipped == np.count_nonzero(np.abs(exact_updates) > encoding.clip)
    step = Fraction(encoding.clip) * encoding.max_weight / (bound(encoding) * sum(weights))
    for mean, column in zip(decoded.update.tolist(), zip(*integers, strict=True), strict=True):
        assert mean == pytest.approx(float(sum(column) * step), rel=1e-15)
    for name in encoding.metrics:
        pairs = [(weight, report[name]) for weight, report in zip(weights, reports, strict=True)]
        rounded = sum(weight * round(Fraction(value) * 2**20) for weight, value in pairs)
        assert decoded.metrics[name] == float(Fraction(rounded, 2**20 * sum(weights)))
        mean = sum(weight * Fraction(value) for weight, value in pairs) / sum(weights)
        assert abs(Fraction(decoded.metrics[name]) - mean) <= Fraction(1, 2**21) + abs(mean) / 2**50
    clipped = np.clip(exact_updates, -encoding.clip, encoding.clip)
    exact = np.average(clipped, axis=0, weights=weights)
    assert np.all(np.abs(decoded.update - exact) <= clients * float(step) * (1 + 2.0**-6))


def test_the_tail_digit_by_digit() -> None:
    # B = 7, digits to the base 8. A weight up to 50 = 7 * 8 - 6: two digits. A clipped coordinate of one: one digit.
    # A metric up to 50 * 2^51 <= 7 * 8^18: 19 digits; -3 * 2^-20 with weight 50 is
    # -150 = 2 + 5 * 8 + 5 * 8^2 + 7 * 8^3 + ... + 7 * 8^17 - 8^18.
    encoding = Encoding(1, cohort=2, input_bits=4, max_weight=50, metrics=("loss",))
    assert (encoding.ring.bits, encoding.length) == (5, 1 + 2 + 1 + 19)
    vector = encoding.encode(np.array([-2.0]), 50, {"loss": -3 * 2.0**-20}, stream(0))
    assert encoding.ring.centred(vector).tolist() == [-7, 2, 6, 1, 2, 5, 5, *[7] * 15, -1]
    total = vector + encoding.encode(np.array([1.0]), 1, {"loss": 5 * 2.0**-20}, stream(0))
    decoded = encoding.decode(total, 2)
    assert (decoded.weight, decoded.clipped) == (51, 1)
    assert decoded.metrics == {"loss": (5 - 150) / 51 * 2.0**-20}


@pytest.mark.parametrize("sign", [1, -1])
def test_a_million_clients_at_the_limit_of_everything(sign: int) -> None:
    million = 10**6
    encoding = Encoding(5, cohort=million, clip=0.1, max_weight=million, metrics=("loss", "accuracy"))
    metrics = {"loss": sign * 2.0**31, "accuracy": 1.0}
    vector = encoding.encode(np.full(5, sign * 0.2), million, metrics, stream(0))
    assert vector.dtype == np.uint64
    total = vector * np.uint64(million)
    decoded = encoding.decode(encoding.ring.unpack(encoding.ring.pack(total), encoding.length), million)
    assert (decoded.weight, decoded.clipped, decoded.clients) == (million**2, 5 * million, million)
    assert decoded.metrics == metrics
    assert decoded.update.tolist() == pytest.approx([sign * 0.1] * 5, rel=1e-15)


def test_masks_that_did_not_cancel_are_noticed() -> None:
    encoding = Encoding(100, cohort=5)
    total = encoding.encode(numbers(0, 100), 1, {}, stream(0))
    encoding.decode(total, 1)
    encoding.ring.add_mask(total, bytes(32))
    with pytest.raises(ValueError, match=r"^total: .* must be from"):
        encoding.decode(total, 1)


# Refusals

FIELDS: dict[str, Any] = {
    "dimension": 3, "cohort": 10, "input_bits": 16, "clip": 1.0, "max_weight": 9, "metrics": ("loss", "accuracy")
}  # fmt: skip
ENCODING = Encoding(**FIELDS)
METRICS = {"loss": 0.5, "accuracy": 0.25}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("dimension", value) for value in (0, -1, 2.0, "3", True, None)),
        *(("cohort", value) for value in (0, 1.5, 2**62 + 1)),
        *(("input_bits", value) for value in (1, 33, 16.0)),
        *(("max_weight", value) for value in (0, 2**31, 1.0)),
        *(("clip", value) for value in (0.0, -1.0, float("nan"), float("inf"), 1e13, "1", True)),
        *(("metrics", value) for value in ("loss", ["loss"], ("",), (1,), ("loss", "loss"))),
    ],
)
def test_encodings_that_there_are_not(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{key} = .*: must ") as refusal:
        Encoding(**(FIELDS | {key: value}))
    assert repr(value) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("update", "complaint"),
    [
        (np.zeros(2, dtype=np.float32), r"update: shape \(2,\), must be \(3,\)"),
        (np.zeros((3, 1), dtype=np.float32), r"update: shape \(3, 1\), must be \(3,\)"),
        (np.zeros(3, dtype=np.int64), "update: dtype int64, must be float16, float32 or float64"),
        (np.zeros(3, dtype=np.complex64), "update: dtype complex64, must be"),
        (np.zeros(3, dtype=">f4"), "update: dtype >f4, must be"),
        (np.zeros(3, dtype=object), "update: dtype object, must be"),
        *(
            (np.array([0.0, 9.0, value], dtype=dtype), rf"update\[2\] = {value}: must be finite")
            for value in (np.nan, np.inf, -np.inf)
            for dtype in DTYPES
        ),
    ],
)
def test_updates_that_are_refused(update: NDArray[Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ENCODING.encode(update, 1, METRICS, stream(0))


@pytest.mark.parametrize("place", [0, PIECE - 1, PIECE, 2 * PIECE + 4])
def test_a_nan_is_found_wherever_it_is(place: int) -> None:
    update = np.zeros(2 * PIECE + 5, dtype=np.float32)
    encoding = Encoding(len(update), cohort=1)
    encoding.encode(update, 1, {}, stream(0))
    update[place] = np.nan
    with pytest.raises(ValueError, match=rf"update\[{place}\] = nan: must be finite"):
        encoding.encode(update, 1, {}, stream(0))


@pytest.mark.parametrize("weight", [0, -1, 10, 1.0, 2.5, True, "1", None])
def test_weights_that_are_refused(weight: Any) -> None:
    with pytest.raises(ValueError, match=f"weight = {weight!r}: must be a whole number from 1 to 9"):
        ENCODING.encode(np.zeros(3), weight, METRICS, stream(0))


@pytest.mark.parametrize(
    ("metrics", "complaint"),
    [
        ({}, "metrics: 'loss' is missing; given: none"),
        ({"loss": 1.0, "f1": 1.0}, "metrics: 'accuracy' is missing; given: f1, loss"),
        *(
            ({"loss": 1.0, "accuracy": value}, "metrics: accuracy = .*, must be a finite number from")
            for value in (np.nan, np.inf, -np.inf, 2.0**31 + 1, -(2.0**31) - 1, "1", None, True, [1.0], 1j)
        ),
    ],
)
def test_metrics_that_are_refused(metrics: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ENCODING.encode(np.zeros(3), 1, metrics, stream(0))


def test_metrics_of_any_real_type_and_those_that_nobody_asked_for() -> None:
    metrics = {"loss": np.float32(0.5), "accuracy": 1, "secret": "stays here"}
    vector = ENCODING.encode(np.zeros(3), np.int64(9), metrics, stream(0))  # type: ignore[arg-type]
    assert len(vector) == ENCODING.length
    assert ENCODING.decode(vector, 1).metrics == {"loss": 0.5, "accuracy": 1.0}


@pytest.mark.parametrize("clients", [0, -1, 11, 1.0, True])
def test_numbers_of_summands_that_are_refused(clients: Any) -> None:
    with pytest.raises(ValueError, match=f"clients = {clients}: must be a whole number from 1 to 10"):
        ENCODING.decode(ENCODING.ring.zeros(ENCODING.length), clients)


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (0, 32767 + 3, "a coordinate = 32770, must be from -32769 to 32769"),
        (1, -32767 - 3, "a coordinate = -32770, must be"),
        (3, 0, "weight = 0, must be from 1 to 9"),
        (3, 10, "weight = 10, must be from 1 to 9"),
        (3, 32768, "a digit of the tail = 32768, must be from -32767 to 32767"),
        (4, 4, "clipped coordinates = 4, must be from 0 to 3"),
        (4, -1, "clipped coordinates = -1, must be"),
        (5, -1, "a digit of the tail = -1, must be from 0 to 32767"),
    ],
)
def test_totals_that_are_no_sums(place: int, value: int, complaint: str) -> None:
    total = ENCODING.encode(np.array([1.0, -1.0, 0.0]), 9, METRICS, stream(0))
    ENCODING.decode(total, 1)
    total[place] = value % 2**32
    with pytest.raises(ValueError, match=f"total: {complaint}"):
        ENCODING.decode(total, 1)


def test_totals_of_another_shape_or_dtype() -> None:
    for length in (ENCODING.length - 1, ENCODING.length + 1):
        with pytest.raises(ValueError, match=r"total: shape \(\d+,\), must be"):
            ENCODING.decode(ENCODING.ring.zeros(length), 1)
    with pytest.raises(ValueError, match="must be uint32"):
        ENCODING.decode(np.zeros(ENCODING.length, dtype=np.uint64), 1)


# As text


@given(encodings())
def test_an_encoding_survives_json(encoding: Encoding) -> None:
    again = Encoding.from_dict(json.loads(json.dumps(encoding.to_dict())))
    assert again == encoding
    assert json.dumps(again.to_dict()) == json.dumps(encoding.to_dict())


def test_equal_encodings_are_the_same_text() -> None:
    written = Encoding(np.int64(3), cohort=10, clip=1)  # type: ignore[arg-type]
    assert json.dumps(written.to_dict()) == json.dumps(Encoding(3, cohort=10, clip=1.0).to_dict())


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        ENCODING.to_dict() | {"more": 1},
        {key: value for key, value in ENCODING.to_dict().items() if key != "clip"},
        ENCODING.to_dict() | {"metrics": "loss"},
        ENCODING.to_dict() | {"metrics": [["loss"]]},
        ENCODING.to_dict() | {"clip": None},
        ENCODING.to_dict() | {"clip": 10**400},
        ENCODING.to_dict() | {"cohort": "10"},
    ],
)
def test_what_is_no_encoding_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        Encoding.from_dict(data)
