"""What hostile or broken clients answer: each function turns an honest reply's content into another one, or an error.

A content is as it comes off the wire (`wired`): Flower's own records and arrays.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedsim.flower.records import decode_records, encode_records

Behaviour = Callable[[RecordDict], RecordDict | Error]

BRACKETS = "[" * 100_000
FORGED = "\n".join(f"\x1b[31mINFO round {i}: all is well\x1b[0m" for i in range(20_001))


def wired(content: RecordDict) -> RecordDict:
    """Return a content as another machine receives it."""
    return decode_records(encode_records(content))


def answered(message: Message, behaviour: Behaviour) -> Message:
    """Return the hostile reply in place of an honest one."""
    if message.has_error():
        return message
    made = behaviour(wired(message.content))
    reply = Message.__new__(Message)
    kept = {"_content": None, "_error": None}
    kept["_error" if isinstance(made, Error) else "_content"] = made  # type: ignore[assignment]
    reply.__dict__.update({**message.__dict__, **kept})
    return reply


def dropped(content: RecordDict) -> Error:
    """Answer nothing but an error: what all others are compared with."""
    return Error(1, "dropped out")


def _arrays(content: RecordDict) -> tuple[str, ArrayRecord]:
    return next((name, record) for name, record in content.items() if isinstance(record, ArrayRecord))


def _first_array(change: Callable[[Array], Array]) -> Behaviour:
    """Return the behaviour that replaces the first array."""

    def behave(content: RecordDict) -> RecordDict:
        _, arrays = _arrays(content)
        name = next(iter(arrays))
        arrays[name] = change(arrays[name])
        return content

    return behave


def _data(make: Callable[[Array], bytes]) -> Behaviour:
    """Return the behaviour that replaces the first array's bytes, and says that they are as asked for."""
    return _first_array(lambda array: Array(array.dtype, array.shape, array.stype, make(array)))


def _npy(shape: tuple[int, ...], dtype: str, body: bytes = b"") -> bytes:
    """Return bytes with a header of NumPy's that promises any shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
    return file.getvalue() + body


def _npz(array: Array) -> bytes:
    file = io.BytesIO()
    np.savez(file, array.numpy())
    return file.getvalue()


def _bomb(array: Array) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("arr_0.npy", _npy((1 << 27,), "|u1") + bytes(1 << 24))
    return file.getvalue()


def _pickled(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    return file.getvalue()


def _filled(value: float) -> Behaviour:
    return _first_array(lambda array: Array(np.full_like(array.numpy(), value)))


ARRAYS: Mapping[str, Behaviour] = {
    "no bytes": _data(lambda array: b""),
    "an npz": _data(_npz),
    "a bomb": _data(_bomb),
    "a pickle": _data(_pickled),
    "a header of 10^13 numbers": _data(lambda array: _npy((10**13,), "<f4")),
    "a header of brackets": _data(lambda array: b"\x93NUMPY\x01\x00" + b"\xf0\x1f" + b"[" * 8176),
    "half the bytes": _data(lambda array: array.data[: len(array.data) - 3]),
    "bytes behind": _data(lambda array: array.data + b"more"),
    "a foreign stype": _first_array(lambda array: Array(array.dtype, array.shape, "pickle\n", array.data)),
    "a shape of 10^13": _first_array(lambda array: Array(array.dtype, (10**13,), array.stype, array.data)),
    "10^5 axes": _first_array(lambda array: Array(array.dtype, (1,) * 10**5, array.stype, array.data)),
    "text as dtype": _first_array(lambda array: Array(FORGED, array.shape, array.stype, array.data)),
    "weights of 3e38": _filled(3e38),
    "NaN": _filled(np.nan),
    "infinity": _filled(-np.inf),
    "float16": _first_array(lambda array: Array(array.numpy().astype(np.float16))),
    "one number": _first_array(lambda array: Array(np.float32(1.0).reshape(()))),
}


def _replaced(record: Any, name: str = "metrics") -> Behaviour:
    return lambda content: RecordDict({**content, name: record})


def _without(name: str) -> Behaviour:
    return lambda content: RecordDict({key: record for key, record in content.items() if key != name})


def _metric(name: str, value: Any) -> Behaviour:
    def behave(content: RecordDict) -> RecordDict:
        content["metrics"][name] = value
        return content

    return behave


def _lacks(name: str) -> Behaviour:
    def behave(content: RecordDict) -> RecordDict:
        content["metrics"].pop(name, None)
        return content

    return behave


METRICS: Mapping[str, Behaviour] = {
    "no metrics": _without("metrics"),
    "empty metrics": _replaced(MetricRecord()),
    "metrics as settings": _replaced(ConfigRecord({"num-examples": 1})),
    "two records of metrics": _replaced(MetricRecord({"num-examples": 1}), "more"),
    "10^4 metrics": _replaced(MetricRecord({f"m{i}": i for i in range(10**4)})),
    "a name of 100 kB": _metric("n" * 100_000, 1.0),
    "a name with newlines": _metric(FORGED[:60], 1.0),
    "a loss of 1.7e308": _metric("train-loss", 1.7e308),
    "a loss of NaN": _metric("train-loss", float("nan")),
    "a list of losses": _metric("train-loss", [1.0] * 10**4),
    "no examples": _metric("num-examples", -1),
    "2^62 examples": _metric("num-examples", 2**62),
    "examples of infinity": _metric("num-examples", float("inf")),
    "a list of examples": _metric("num-examples", [10]),
    "no number of examples": _lacks("num-examples"),
}

CONTENTS: Mapping[str, Behaviour] = {
    "nothing": lambda content: RecordDict(),
    "no arrays": lambda content: RecordDict({"metrics": content["metrics"]}),
    "other arrays": lambda content: RecordDict(
        {**content, "arrays": ArrayRecord({FORGED: Array(np.zeros(2))})}
    ),
    "more arrays": _replaced(ArrayRecord({"w": Array(np.zeros(2))}), FORGED),
    "an error that forges the log": lambda content: Error(1, FORGED),
    "an error of 310 kB": lambda content: Error(1, "x" * 310_000),
    "an error without a reason": lambda content: Error(7),
}

LEDGERS: Mapping[str, Behaviour] = {
    name: _replaced(ConfigRecord(record), "ledger")
    for name, record in {
        "a ledger without events": {},
        "a number as events": {"events": 3},
        "a text as events": {"events": "{}"},
        "bytes as events": {"events": b"{}"},
        "no events": {"events": [""]},
        "an event that is null": {"events": ["null"]},
        "an event that is a list": {"events": ["[]"]},
        "an event that is a number": {"events": ["1e999"]},
        "an event of brackets": {"events": [BRACKETS]},
        "an event of few brackets": {"events": ["[" * 300]},
        "10^5 events": {"events": ["{}"] * 10**5},
        "an event of an unknown mechanism": {"events": ['{"mechanism": "none"}']},
    }.items()
}
LEDGERS |= {"a ledger of arrays": _replaced(ArrayRecord(), "ledger")}  # type: ignore[operator]


def event(**changes: Any) -> Behaviour:
    """Return the behaviour that changes keys of the event of its release."""
    import json

    def behave(content: RecordDict) -> RecordDict:
        tree = json.loads(content["ledger"]["events"][0])
        content["ledger"]["events"] = [json.dumps(tree | changes)]
        return content

    return behave


EVENTS: Mapping[str, Behaviour] = {
    "no ledger": _without("ledger"),
    "another client's event": event(client=0),
    "another round's event": event(round=7),
    "a noise multiplier of 1e-300": event(**{"noise-multiplier": 1e-300}),
    "a noise multiplier as text": event(**{"noise-multiplier": "1"}),
    "a client that is true": event(client=True),
    "a key more": event(more=1),
}

TRAINING: Mapping[str, Behaviour] = {**ARRAYS, **METRICS, **CONTENTS, **LEDGERS}

EVALUATION: Mapping[str, Behaviour] = {
    "nothing": CONTENTS["nothing"],
    "an error": CONTENTS["an error that forges the log"],
    "no metrics": METRICS["no metrics"],
    "empty metrics": METRICS["empty metrics"],
    "10^4 metrics": METRICS["10^4 metrics"],
    "metrics as settings": METRICS["metrics as settings"],
    "no accuracy": _lacks("accuracy"),
    "no loss": _lacks("loss"),
    "no number of examples": _lacks("num-examples"),
    "a list of accuracies": _metric("accuracy", [0.5]),
    "NaN": _metric("accuracy", float("nan")),
    "a loss of 1.7e308": _metric("loss", 1.7e308),
    "-1 examples": _metric("num-examples", -1),
    "2^62 examples": _metric("num-examples", 2**62),
    "arrays": _replaced(ArrayRecord({"w": Array(np.zeros(2))}), "arrays"),
}

ENROLMENT: Mapping[str, Behaviour] = {
    "nothing": CONTENTS["nothing"],
    "an error": CONTENTS["an error that forges the log"],
    "no client": _replaced(ConfigRecord(), "identity"),
    "a text": _replaced(ConfigRecord({"client": FORGED}), "identity"),
    "NaN": _replaced(ConfigRecord({"client": float("nan")}), "identity"),
    "a list": _replaced(ConfigRecord({"client": [1]}), "identity"),
    "true": _replaced(ConfigRecord({"client": True}), "identity"),
    "a fraction": _replaced(ConfigRecord({"client": 1.0}), "identity"),
    "-1": _replaced(ConfigRecord({"client": -1}), "identity"),
    "2^62": _replaced(ConfigRecord({"client": 2**62}), "identity"),
    "metrics": _replaced(MetricRecord({"client": 1}), "identity"),
    "another client": _replaced(ConfigRecord({"client": 0}), "identity"),
}


def _body(make: Callable[[bytes], Any]) -> Behaviour:
    return lambda content: RecordDict({"secagg": ConfigRecord({"body": make(content["secagg"]["body"])})})


STAGE: Mapping[str, Behaviour] = {  # replies of any stage of secure aggregation
    "nothing": CONTENTS["nothing"],
    "an error": CONTENTS["an error that forges the log"],
    "no bytes": _body(lambda body: b""),
    "half": _body(lambda body: body[: len(body) // 2]),
    "one bit": _body(lambda body: bytes([body[0] ^ 1]) + body[1:]),
    "zeros": _body(lambda body: bytes(len(body))),
    "ones": _body(lambda body: b"\xff" * len(body)),
    "twice": _body(lambda body: 2 * body),
    "a megabyte": _body(lambda body: bytes(1 << 20)),
    "text": _body(lambda body: FORGED),
    "a list": _body(lambda body: [1]),
    "more records": _replaced(MetricRecord({"num-examples": 1})),
}


def _keys_of_small_order(body: bytes) -> bytes:
    """Return an advertisement with keys with which nobody can agree on a secret."""
    return bytes(64) + body[64:]


ADVERTISE: Mapping[str, Behaviour] = {"keys of small order": _body(_keys_of_small_order)}
