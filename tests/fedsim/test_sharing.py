import gc
import os
import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.runtime.sharing import Channel, Lender

Line = tuple[Channel, Channel]


@pytest.fixture
def lender() -> Iterator[Lender]:
    made = Lender()
    yield made
    made.close()


def line(ours: Lender, theirs: Lender | None = None) -> Line:
    one, other = socket.socketpair()
    return Channel(Connection(one.detach()), ours), Channel(Connection(other.detach()), theirs or Lender())


def ping(to: Line) -> None:
    """Let the first end receive the second's releases."""
    to[1].send(b"")
    to[0].receive()


def test_arrays_arrive_without_being_sent(lender: Lender) -> None:
    us, them = line(lender)
    arrays = [np.arange(100_000, dtype=np.float32).reshape(100, 1000), np.array(3), np.zeros((0, 4))]
    us.send(b"payload", lender.lend(arrays), None)
    payload, (read, nothing) = them.receive()
    assert (payload, nothing) == (b"payload", [])
    for ours, theirs in zip(arrays, read, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert theirs.ctypes.data % 64 == 0


def test_shared_arrays_are_read_only_and_single_ones_writable(lender: Lender) -> None:
    us, them = line(lender)
    us.send(b"", lender.lend([np.zeros(3)]), lender.lend([np.zeros(3)], sole=True))
    _, ((shared,), (own,)) = them.receive()
    with pytest.raises(ValueError, match="read-only"):
        shared[0] = 1
    own[0] = 1


def test_memory_is_used_again_only_when_its_last_array_is_let_go(lender: Lender) -> None:
    both = us, them = line(lender)

    def send(value: float) -> np.ndarray:
        loan = lender.lend([np.full(10, value)])
        us.send(b"", loan)
        lender.release(loan)
        _, ((read,),) = them.receive()
        return read

    first = send(1.0)
    tail = first[5:].reshape(5, 1)
    del first
    second = send(2.0)  # while a part of the first is still held: elsewhere
    ping(both)
    assert tail.ravel().tolist() == [1.0] * 5
    assert len(lender._segments) == 2
    del tail, second
    gc.collect()
    ping(both)
    assert send(3.0).tolist() == [3.0] * 10
    ping(both)
    send(4.0)
    assert len(lender._segments) == 2


def test_a_loan_that_is_sent_again_while_it_is_read(lender: Lender) -> None:
    both = us, them = line(lender)
    loan = lender.lend([np.ones(4)])
    us.send(b"", loan)
    us.send(b"", loan)
    lender.release(loan)
    _, ((one,),) = them.receive()
    del one
    ping(both)  # the first frame is returned, the second has not been read yet
    other = lender.lend([np.zeros(4)])
    _, ((again,),) = them.receive()
    assert again.tolist() == [1.0] * 4
    lender.release(other)


def test_memory_of_a_lost_peer_is_reused(lender: Lender) -> None:
    us, them = line(lender)
    loan = lender.lend([np.ones(4)])
    us.send(b"", loan)
    lender.release(loan)
    kept = them.receive()
    us.close()
    lender.release(lender.lend([np.zeros(4)]))
    assert len(lender._segments) == 1
    assert len(kept) == 2


def test_a_lost_peer_is_noticed(lender: Lender) -> None:
    us, them = line(lender)
    us.close()
    with pytest.raises(EOFError):
        them.receive()
    with pytest.raises(OSError, match="Broken pipe"):
        them.send(b"")


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_nothing_that_is_held_is_ever_overwritten(sizes: list[int], choose) -> None:  # type: ignore[no-untyped-def]
    lender = Lender()
    both = us, them = line(lender)
    held: list[tuple[int, np.ndarray]] = []
    for number, size in enumerate(sizes):
        loan = lender.lend([np.full(size, number)])
        us.send(b"", loan)
        lender.release(loan)
        held.append((number, them.receive()[1][0][0]))
        if choose.random() < 0.6:
            held.pop(choose.randrange(len(held)))
            ping(both)
        assert all((array == which).all() for which, array in held)
    us.close()
    them.close()
    lender.close()


def test_closing_gives_the_descriptors_back() -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112, PTH208
    lender, theirs = Lender(), Lender()
    us, them = line(lender, theirs)
    for size in (10, 10_000, 1_000_000):
        us.send(b"", lender.lend([np.zeros(size)]))
        them.receive()
    us.close()
    them.close()
    lender.close()
    del us, them, lender
    gc.collect()
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before  # noqa: PTH208
