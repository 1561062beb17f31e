import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedsim.records import config_in, find_record, record_in, records_in

ROUND, LOSS, OTHER = (
    ConfigRecord({"server-round": 3}),
    MetricRecord({"loss": 0.5}),
    MetricRecord({"loss": 1.5}),
)
CONTENT = RecordDict({"config": ROUND, "metrics": LOSS, "other": OTHER})


def test_records_are_found_by_kind_and_name() -> None:
    assert record_in(CONTENT, MetricRecord, "other") is OTHER
    assert find_record(CONTENT, ConfigRecord, "config") is ROUND
    assert records_in(CONTENT, MetricRecord) == {"metrics": LOSS, "other": OTHER}
    assert config_in(CONTENT, "config") is ROUND


def test_another_kind_of_that_name_is_none() -> None:
    assert find_record(CONTENT, MetricRecord, "config") is None
    assert find_record(CONTENT, ConfigRecord, "nothing") is None
    assert config_in(CONTENT, "metrics") == config_in(CONTENT, "nothing") == {}
    with pytest.raises(
        ValueError, match="no MetricRecord 'config' among the records: config, metrics, other"
    ):
        record_in(CONTENT, MetricRecord, "config")
    with pytest.raises(ValueError, match="no ConfigRecord 'config' among the records: none"):
        record_in(RecordDict(), ConfigRecord, "config")
