"""Shared memory between a parent process and its workers, over one socket each.

Arrays are written once into a *segment* of memory that both ends map; only small frames with their locations go
through the socket. Segments are anonymous and passed as file descriptors, so a kill leaves nothing behind. They are
reused: a *loan* is one use, and ends when every reader has released its last array.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import pickle
import socket
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import numpy as np

from fedsim.arrays import Values

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


class Segment:
    """Memory that can be mapped by other processes."""

    _ids = itertools.count()

    def __init__(self, size: int) -> None:
        self.id = next(self._ids)
        self.fd = _anonymous_file(size)
        self.size = size
        self.memory = mmap.mmap(self.fd, size)


def _anonymous_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("fedsim")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


@dataclass(eq=False)
class Loan:
    """One use of a segment: its contents and its readers."""

    number: int  # names the loan to readers
    segment: Segment
    layout: tuple[int, int]  # offset and length of the arrays' description
    sole: bool  # whether there is one reader, which then owns the arrays and may change them
    holders: int = 1  # in this process, that may still send it
    sent: dict[Channel, int] = field(default_factory=dict)  # frames that each reader has not returned yet


class Lender:
    """The segments that this process writes; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Segment] = []
        self._segments: list[Segment] = []
        self._loans: dict[int, Loan] = {}
        self._numbers = itertools.count()

    def lend(self, arrays: Sequence[Values], *, sole: bool = False) -> Loan | None:
        """Write arrays into a free segment, and return its loan (None without arrays), held once by the caller."""
        if not arrays:
            return None
        described, size = [], 0
        for values in arrays:
            described.append((size, values.dtype.str, values.shape))
            size += -(-values.nbytes // ALIGNMENT) * ALIGNMENT
        layout = pickle.dumps(described)
        segment = self._take(size + len(layout))
        for values, (offset, dtype, shape) in zip(arrays, described, strict=True):
            np.copyto(np.ndarray(shape, dtype, segment.memory, offset), values)
        segment.memory[size : size + len(layout)] = layout
        loan = Loan(next(self._numbers), segment, (size, len(layout)), sole)
        with self._lock:
            self._loans[loan.number] = loan
        return loan

    def hold(self, loan: Loan | None) -> None:
        """Add a holder in this process."""
        if loan is not None:
            with self._lock:
                loan.holders += 1

    def release(self, loan: Loan | None) -> None:
        """Remove a holder."""
        if loan is not None:
            with self._lock:
                loan.holders -= 1
                self._reuse_if_over(loan)

    def note_sent(self, loan: Loan, reader: Channel) -> None:
        """Note that a frame with the loan is about to be sent to a reader."""
        with self._lock:
            loan.sent[reader] = loan.sent.get(reader, 0) + 1

    def note_returned(self, number: int, frames: int, reader: Channel) -> None:
        """Note that a reader has released a loan that came in this number of frames."""
        with self._lock:
            loan = self._loans[number]
            loan.sent[reader] -= frames
            self._reuse_if_over(loan)

    def forget(self, reader: Channel) -> None:
        """Take back all loans of a lost reader."""
        with self._lock:
            for loan in [loan for loan in self._loans.values() if reader in loan.sent]:
                loan.sent[reader] = 0
                self._reuse_if_over(loan)

    def _take(self, size: int) -> Segment:
        with self._lock:
            fitting = [segment for segment in self._free if segment.size >= size]
            if fitting:
                best = min(fitting, key=lambda segment: segment.size)
                self._free.remove(best)
                return best
        segment = Segment(1 << max(size - 1, mmap.PAGESIZE - 1).bit_length())  # untouched pages cost nothing
        self._segments.append(segment)
        return segment

    def close(self) -> None:
        """Close the segments' descriptors; memory in use stays."""
        for segment in self._segments:
            os.close(segment.fd)
        self._segments.clear()

    def _reuse_if_over(self, loan: Loan) -> None:
        if loan.holders == 0 and not any(loan.sent.values()) and loan.number in self._loans:
            del self._loans[loan.number]
            self._free.append(loan.segment)


class Channel:
    """One end of the connection between a parent and a worker, for bytes and arrays."""

    def __init__(self, connection: Connection, lender: Lender) -> None:
        self._connection = connection
        self._lender = lender
        self._known: set[int] = set()  # our segments that the peer has
        self._maps: dict[int, mmap.mmap] = {}  # the peer's segments
        self._roots: dict[int, weakref.ref[Values]] = {}  # by the number of the peer's loan
        self._frames: dict[int, int] = {}  # frames with it since it was last returned
        self._returns: deque[tuple[int, int]] = deque()

    def send(self, payload: bytes, *loans: Loan | None) -> None:
        """Send bytes and loans; raises `OSError` if the peer is gone."""
        lent: list[tuple[int, int, tuple[int, int], bool] | None] = []
        new: list[Segment] = []
        for loan in loans:
            if loan is None:
                lent.append(None)
                continue
            self._lender.note_sent(loan, self)
            if loan.segment.id not in self._known:
                self._known.add(loan.segment.id)
                new.append(loan.segment)
            lent.append((loan.number, loan.segment.id, loan.layout, loan.sole))
        returns = [self._returns.popleft() for _ in range(len(self._returns))]
        sizes = {segment.id: segment.size for segment in new}
        self._connection.send_bytes(pickle.dumps((payload, lent, sizes, returns)))
        if new:
            with socket.socket(fileno=os.dup(self._connection.fileno())) as line:
                socket.send_fds(line, [b"\0"], [segment.fd for segment in new])

    def receive(self) -> tuple[bytes, list[list[Values]]]:
        """Wait for bytes and each loan's arrays; raises `EOFError` or `OSError` if the peer is gone.

        The arrays are views of the peer's memory: read-only, unless the loan is for one reader.
        """
        payload, lent, sizes, returns = pickle.loads(self._connection.recv_bytes())  # noqa: S301 (our own process)
        for number, frames in returns:
            self._lender.note_returned(number, frames, self)
        if sizes:
            with socket.socket(fileno=os.dup(self._connection.fileno())) as line:
                _, fds, _, _ = socket.recv_fds(line, 1, len(sizes))
            if len(fds) < len(sizes):
                raise EOFError("the peer was gone before it could pass its memory on")
            for (segment, size), fd in zip(sizes.items(), fds, strict=True):
                self._maps[segment] = mmap.mmap(fd, size)
                os.close(fd)
        return payload, [[] if loan is None else self._read(*loan) for loan in lent]

    def _read(self, number: int, segment: int, layout: tuple[int, int], sole: bool) -> list[Values]:
        memory = self._maps[segment]
        known = self._roots.get(number)
        root = None if known is None else known()
        self._frames[number] = self._frames.get(number, 0) + 1
        if root is None:
            root = np.frombuffer(memory, np.uint8)
            root.flags.writeable = sole
            self._roots[number] = weakref.ref(root, lambda _: self._return(number))
        start, length = layout
        described = pickle.loads(memory[start : start + length])  # noqa: S301 (our own process)
        views = []
        for offset, dtype, shape in described:
            size = np.dtype(dtype).itemsize * math.prod(shape)
            views.append(root[offset : offset + size].view(dtype).reshape(shape))
        return views

    def _return(self, number: int) -> None:
        """Note that the loan's arrays are all released here; the next frame tells the peer."""
        self._roots.pop(number, None)
        self._returns.append((number, self._frames.pop(number)))

    def close(self) -> None:
        """Close the connection and take back the peer's loans; arrays read from it stay."""
        self._connection.close()
        self._lender.forget(self)
