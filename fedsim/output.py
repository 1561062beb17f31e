"""Standard output and error that outlive their reader: `fedsim run ... | head -1` goes on, and so does a full disk."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

NOBODY_READS = {errno.EPIPE, errno.EIO}  # a pipe without a reader, a terminal that is gone


class _Lasting(io.FileIO):
    """A standard stream's descriptor; what is written after an error is dropped."""

    error: OSError | None = None

    def write(self, data: bytes) -> int | None:  # type: ignore[override]
        """Write, or drop, bytes."""
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return len(data)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Have prints inside the block dropped, rather than raise, once standard output or error can't be written to.

    Where nobody reads them any more, that is all. Where they were lost otherwise, as on a full disk, one line on standard
    error says so at the end, and a block that has done well raises `SystemExit` with 1. Streams that a caller has
    replaced are left alone.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, out = _lasting(sys.stdout, 1)
    sys.stderr, _ = _lasting(sys.stderr, 2)
    code: object = 0
    try:
        yield
    except SystemExit as left:
        code = left.code
        raise
    except BaseException:
        code = 1
        raise
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        lost = None if out is None else out.error
        if lost is not None and lost.errno not in NOBODY_READS:
            print(f"fedsim: standard output: {lost.strerror}; what was printed is lost", file=sys.stderr)
        sys.stdout, sys.stderr = before
        if lost is not None and lost.errno not in NOBODY_READS and code in (None, 0):
            raise SystemExit(1)


def _lasting(stream: TextIO, number: int) -> tuple[TextIO, _Lasting | None]:
    """Return a stream over the same descriptor that outlives its reader; the stream itself if it is another's."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # with `python -u` there is no buffer between
    if not isinstance(stream, io.TextIOWrapper) or type(raw) is not io.FileIO or raw.fileno() != number:
        return stream, None
    stream.flush()
    lasting = _Lasting(number, "w", closefd=False)
    text = io.TextIOWrapper(
        lasting if raw is buffer else io.BufferedWriter(lasting),  # type: ignore[type-var]
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    return text, lasting
