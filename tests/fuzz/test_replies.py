"""Random replies of every kind: read as values or refused in one short line, and no run ends by them or sums them up.

`FEDSIM_FUZZ` is the number of examples of each test: a small, fixed sample by default.
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim.deployment.content_codec import decode_content, encode_content
from fedsim.flower.records import decode_records, encode_records
from fedsim.flower.wire_message import WireMessage
from fedsim.layout import Expected
from fedsim.runtime.spec import acting_as
from fedsim.secagg.messages import body_of
from fedsim.server.aggregation.replies import (
    MOST_EXAMPLES,
    MOST_METRIC,
    MOST_WEIGHT,
    read_identity,
    read_scores,
    read_update,
)
from fedsim.server.deployed_grid import _opened
from tests.conftest import experiment
from tests.hostile.behaviours import EVALUATION, TRAINING, Behaviour, dropped
from tests.hostile.grid import run_with

GIVEN = os.environ.get("FEDSIM_FUZZ")
EXAMPLES = int(GIVEN or 40)
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=GIVEN is None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
few = settings(fuzz, max_examples=max(EXAMPLES // 30, 1))

EXPECTED: dict[str, Expected] = {
    "arrays": {"w": ((3, 2), np.dtype("float32")), "n": ((), np.dtype("int64"))},
    "control": {"w": ((3, 2), np.dtype("float64"))},
}
PLANNED = '{"mechanism": "local-dp", "round": 1, "client": 3, "noise-multiplier": 1.5}'

# --- random contents ------------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "",
            "\x1b[2J\n",
            "{}",
            "null",
            "[" * 50_000,
            "1e999",
            "NaN",
            "\ud800".encode("utf-8", "replace").decode(),
        ]
    ),
    st.just(PLANNED),
)
NAMES = st.one_of(
    st.sampled_from(["arrays", "control", "metrics", "ledger", "identity", "secagg", "w", "n", "config"]),
    TEXTS,
)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.one_of(st.floats(), st.sampled_from([1e308, -1e308, 1e-320, 3e38, 1e38, 1.1e38]))
VALUES = st.one_of(
    INTEGERS,
    FLOATS,
    TEXTS,
    st.booleans(),
    st.binary(max_size=20),
    st.lists(INTEGERS),
    st.lists(FLOATS),
    st.lists(TEXTS),
)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Draw an array: honest, of other numbers, shape or dtype, or with bytes that are changed."""
    dtype = draw(st.sampled_from(["float32", "float64", "int64", "float16", "uint8", ">f4", "bool", "U3"]))
    shape = draw(st.sampled_from([(3, 2), (), (2, 3), (6,), (0,), (3, 2, 1)]))
    numbers = np.zeros(shape, dtype)
    if numbers.dtype.kind == "f":
        with np.errstate(over="ignore"):
            numbers[...] = draw(FLOATS)
    array = Array(np.asfortranarray(numbers) if draw(st.booleans()) else numbers)
    how = draw(st.sampled_from(["as it is", "bytes", "cut", "flipped", "header", "said"]))
    data, said = array.data, array.shape
    if how == "bytes":
        data = draw(st.binary(max_size=200))
    elif how == "cut":
        data = data[: draw(st.integers(0, len(data)))] + draw(st.binary(max_size=9))
    elif how == "flipped":
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + draw(st.binary(min_size=1, max_size=3)) + data[at + 1 :]
    elif how == "header":
        file = io.BytesIO()
        promised = tuple(draw(st.lists(st.integers(0, 2**40), max_size=4)))
        np.lib.format.write_array_header_1_0(
            file, {"shape": promised, "fortran_order": False, "descr": "<f4"}
        )
        data = file.getvalue()
    elif how == "said":
        said = tuple(draw(st.lists(st.integers(0, 2**31 - 1), max_size=4)))
    stype = draw(st.sampled_from(["numpy.ndarray", "numpy.ndarray", "pickle", ""]))
    return Array(array.dtype, said, stype, data)


RECORDS = st.one_of(
    st.builds(ArrayRecord, st.dictionaries(NAMES, arrays(), max_size=3)),
    st.builds(
        MetricRecord, st.dictionaries(NAMES, st.one_of(INTEGERS, FLOATS, st.lists(FLOATS)), max_size=4)
    ),
    st.builds(ConfigRecord, st.dictionaries(NAMES, VALUES, max_size=4)),
)


def honest() -> RecordDict:
    """Return an honest reply to training."""
    return RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(np.ones((3, 2), np.float32)), "n": Array(np.asarray(5))}),
            "control": ArrayRecord({"w": Array(np.ones((3, 2)))}),
            "metrics": MetricRecord({"num-examples": 5, "loss": 0.5, "accuracy": 0.5, "train-loss": 0.1}),
        }
    )


@st.composite
def contents(draw: st.DrawFn) -> RecordDict:
    """Draw a content: an honest one of which records, arrays or values are replaced, or a random one."""
    if draw(st.booleans()):
        return RecordDict(draw(st.dictionaries(NAMES, RECORDS, max_size=4)))
    content = honest()
    name = draw(st.sampled_from(sorted(content)))
    how = draw(st.sampled_from(["record", "item", "more", "less"]))
    if how == "record":
        content[name] = draw(RECORDS)
    elif how == "more":
        content[draw(NAMES)] = draw(RECORDS)
    elif how == "less":
        del content[name]
    else:
        record = content[name]
        key = draw(st.one_of(st.sampled_from(sorted(record)), NAMES))
        record[key] = draw(
            arrays() if isinstance(record, ArrayRecord) else st.one_of(INTEGERS, FLOATS, st.lists(FLOATS))
        )
    return content


ERRORS = st.builds(Error, st.integers(0, 300), st.one_of(st.none(), TEXTS, st.just("x\n" * 10**5)))


def reply(content: RecordDict | Error, node: int = 7) -> Message:
    """Return a reply of a node's."""
    with acting_as(1):
        request = Message(RecordDict(), node, "train")
    with acting_as(node):
        return Message(content, reply_to=request)


def refused(read: Any, *given: Any) -> Any:
    """Return what is read, or None where it is refused in a line of at most 300 printable characters."""
    try:
        return read(*given)
    except ValueError as error:
        why = str(error)
    assert why.isprintable()
    assert 0 < len(why) <= 300
    return None


# --- the parser -----------------------------------------------------------------------------------------------


@fuzz
@given(st.one_of(contents(), ERRORS), st.sampled_from(["", PLANNED]))
def test_an_update_is_of_the_schema_or_refused(content: RecordDict | Error, planned: str) -> None:
    update = refused(read_update, reply(content), EXPECTED, planned)
    if update is None:
        return
    for record, expected in EXPECTED.items():
        for name, (shape, dtype) in expected.items():
            values = update.records[record][name]
            assert (values.shape, values.dtype) == (shape, dtype)
            assert np.all(np.abs(values.astype(float)) <= MOST_WEIGHT)
    assert 0 < update.metrics["num-examples"] <= MOST_EXAMPLES
    assert all(abs(value) <= MOST_METRIC for value in update.metrics.values())


def test_the_honest_reply_is_read() -> None:
    assert read_update(reply(honest()), EXPECTED).metrics["num-examples"] == 5


@fuzz
@given(st.one_of(contents(), ERRORS))
def test_the_other_replies_are_of_their_schemas_or_refused(content: RecordDict | Error) -> None:
    scores = refused(read_scores, reply(content), ("accuracy",))
    assert scores is None or {"loss", "accuracy", "num-examples"} <= scores.keys()
    client = refused(read_identity, reply(content), 9)
    assert client is None or (type(client) is int and 0 <= client < 9)
    body = refused(body_of, reply(content))
    assert body is None or type(body) is bytes


@fuzz
@given(st.data())
def test_bytes_off_the_wire_are_a_reply_or_an_error_of_their_sender(data: st.DataObject) -> None:
    content = data.draw(contents())
    parcel = encode_content(content)
    if data.draw(st.booleans()):
        body = bytearray(encode_records(content))
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, max(len(body) - 1, 0)))
            body[at : at + 1] = data.draw(st.binary(max_size=4))
        parcel = RecordDict({"parcel": ConfigRecord({"parcel": bytes(body)})})
    (wire,) = WireMessage.encode([reply(parcel)])
    parts = dict(wire.contents)
    if data.draw(st.booleans()):
        place, far = data.draw(st.tuples(st.integers(0, 9), st.integers(0, 10**6)))  # ids and times differ
        id_ = list(parts)[place % len(parts)]
        part = bytearray(parts[id_])
        at = far % len(part)
        part[at : at + 1] = data.draw(st.binary(max_size=4))
        parts[id_] = bytes(part)
    opened = _opened(WireMessage(wire.head, wire.tree, parts))
    assert opened.metadata.src_node_id == 7
    refused(read_update, opened, EXPECTED)


@fuzz
@given(st.binary(max_size=300))
def test_no_bytes_are_a_content_by_another_exception(body: bytes) -> None:
    refused(decode_content, RecordDict({"parcel": ConfigRecord({"parcel": body})}))


# --- a short run ----------------------------------------------------------------------------------------------


def result(run: Any) -> Any:
    """Return what is the same if clients have dropped out."""
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "failure-reasons")} for row in run.rows]
    return (run.path / "model.safetensors").read_bytes(), rows


KINDS = {
    "train": st.one_of(
        st.sampled_from(sorted(TRAINING)).map(TRAINING.__getitem__),
        st.one_of(st.dictionaries(NAMES, RECORDS, max_size=2).map(RecordDict), ERRORS).map(
            lambda content: lambda honest: content
        ),
    ),
    "evaluate": st.sampled_from(sorted(EVALUATION)).map(EVALUATION.__getitem__),
}


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])
@few
@given(data=st.data())
def test_a_run_with_hostile_clients_is_that_without_them(strategy: str, data: st.DataObject) -> None:
    type_ = data.draw(st.sampled_from(sorted(KINDS)))
    clients = st.sampled_from([0, 1, 3, 4])
    hostile: dict[int, Behaviour] = data.draw(st.dictionaries(clients, KINDS[type_], min_size=1, max_size=3))
    setting = experiment(
        "data.clients=5",
        "server.cohort=5",
        "rounds=2",
        "data.held-out=0.2",
        "server.client-evaluation=all",
        "model.name=linear",
        f"server.strategy={strategy}",
    )
    with tempfile.TemporaryDirectory() as folder:
        run = run_with(hostile, setting, Path(folder) / "run", type_)
        without = run_with(dict.fromkeys(hostile, dropped), setting, Path(folder) / "without", type_)
        assert result(run) == result(without)


def test_decoding_is_the_inverse_of_encoding() -> None:
    content = honest()
    assert encode_records(decode_records(encode_records(content))) == encode_records(content)
