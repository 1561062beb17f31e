import pickle

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsim.arrays import LiveArray, record_of, values_of
from fedsim.runtime.packing import LARGE, Packer, unpack

ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.bool_, np.uint8]),
    hnp.array_shapes(min_dims=0, min_side=0),
)


@given(ARRAYS)
def test_a_live_array_is_an_array_of_flowers_in_every_respect(values: np.ndarray) -> None:
    live, own = LiveArray(values), Array(values)
    assert (live.dtype, live.shape, live.stype, live.data) == (own.dtype, own.shape, own.stype, own.data)
    assert live.object_id == own.object_id
    assert ArrayRecord.inflate(*_sent(record_of({"w": live.numpy()})))["w"].data == own.data
    np.testing.assert_array_equal(live.numpy(), values)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(live)).numpy(), values)


def _sent(record: ArrayRecord) -> tuple[bytes, dict]:
    """Return what a receiver without fedsim gets of a record: its bytes, and its children made of theirs."""
    children = {
        child_id: Array.inflate(child.deflate(), child.children)
        for child_id, child in record.children.items()
    }
    return record.deflate(), children


def test_a_changed_copy_does_not_change_the_others() -> None:
    live = LiveArray(np.zeros(3))
    live.numpy()[:] = 1
    assert values_of(live).tolist() == [0, 0, 0]
    live.data = Array(np.ones(2)).data
    assert live.numpy().tolist() == [1, 1]


@given(st.lists(ARRAYS, max_size=4), st.binary(max_size=20))
def test_unpacking_inverts_packing(arrays: list[np.ndarray], small: bytes) -> None:
    packer = Packer()
    record = RecordDict({"a": ArrayRecord({str(i): Array(a) for i, a in enumerate(arrays)})})
    packed = packer.pack((record, arrays, small))
    again, plain, same = unpack(packed, packer.arrays)
    assert same == small
    assert again.object_id == record.object_id
    for ours, theirs in zip(plain, arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_an_array_stands_in_the_list_once_and_large_bytes_stand_there_too() -> None:
    packer = Packer()
    array, large = Array(np.arange(5)), bytes(LARGE)
    pickles = [packer.pack({"array": array, "large": large, "number": i}) for i in range(3)]
    assert len(packer.arrays) == 2
    assert max(map(len, pickles)) < 1000
    assert [unpack(p, packer.arrays)["number"] for p in pickles] == [0, 1, 2]
    assert unpack(pickles[0], packer.arrays)["large"] == large


def test_a_content_stands_in_the_list_once_and_comes_out_anew_for_each_who_shares_it() -> None:
    packer = Packer()
    content = RecordDict({"arrays": record_of({"w": np.arange(5)})})
    first, second = unpack(packer.pack([content, content]), packer.arrays)
    assert len(packer.arrays) == 2  # the array, and the content's pickle
    del first["arrays"]["w"]
    assert second["arrays"]["w"].numpy().tolist() == [0, 1, 2, 3, 4]


def test_arrays_of_objects_stay_in_the_pickle() -> None:
    packer = Packer()
    packed = packer.pack(np.array([{"a": 1}, None], dtype=object))
    assert packer.arrays == []
    assert unpack(packed, []).tolist() == [{"a": 1}, None]
