"""The records of a message's content, or of a client's state, by kind and name.

Flower's `content.config_records` and the like make a self-referencing dictionary on each access: the content stays in
memory with all its arrays until the garbage collector runs.
"""

from __future__ import annotations

from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)


def records_in(content: RecordDict, kind: type[R]) -> dict[str, R]:
    """Return all records of a kind, by name."""
    return {name: record for name, record in content.items() if isinstance(record, kind)}


def find_record(content: RecordDict, kind: type[R], name: str) -> R | None:
    """Return the record of a kind and name, or None."""
    record = content.get(name)
    return record if isinstance(record, kind) else None


def record_in(content: RecordDict, kind: type[R], name: str) -> R:
    """Return the record of a kind and name; `ValueError` if there is none."""
    record = find_record(content, kind, name)
    if record is None:
        raise ValueError(f"no {kind.__name__} {name!r} among the records: {', '.join(content) or 'none'}")
    return record


def config_in(content: RecordDict, name: str) -> ConfigRecord:
    """Return a `ConfigRecord` for reading, empty if there is none of that name."""
    record = find_record(content, ConfigRecord, name)
    return ConfigRecord() if record is None else record
