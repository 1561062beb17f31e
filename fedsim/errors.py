"""fedsim's exceptions; the exceptions and the texts of other people's code as one line."""

import errno
import traceback
from pathlib import Path

OF_THE_MACHINE = {
    getattr(errno, name) for name in ["ENOSPC", "EDQUOT", "EROFS", "EIO", "EMFILE", "ENFILE", "ENOMEM"]
}


class Refused(ValueError):
    """The input is not usable: nothing was run and nothing was written.

    The message is one line that names the key, the value and what is allowed. The command line prints it
    and exits with 2.
    """


class RunFailed(RuntimeError):
    """The run started and could not continue.

    The message names the round and the first reason. The command line prints it and exits with 1.
    """


class Withheld(RunFailed):
    """The run failed for a reason that may depend on the data; with the operating system's noise only its log has it."""

    def __init__(self) -> None:
        super().__init__("the run could not go on; private/log.txt in its directory says why")


class BrokenOff(RunFailed):
    """This machine kept the run from going on, whatever its data: a full disk, no more open files, a removed folder."""


class Interrupted(RunFailed):
    """A signal (SIGINT, SIGTERM, SIGHUP) ended the run after a whole round.

    The message names the round and how to resume. The command line prints it and exits with 1.
    """


REASON = 300  # characters of a client's text that are printed or stored, at most


def printable(text: str, most: int = REASON) -> str:
    r"""Return a foreign text as one line of at most `most` printable characters: others are escaped, the rest is cut.

    >>> printable("all well\n\x1b[2J", 20)
    'all well\\n\\x1b[2J'
    >>> printable("long" * 1000, 10)
    'longlon...'
    """
    escaped = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[: most + 1]
    )
    return escaped if len(escaped) <= most else escaped[: most - 3] + "..."


def reason(error: BaseException, folder: Path | None = None) -> str:
    """Return an exception as one line, with the innermost place in the folder where it was raised."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if folder is not None and Path(frame.filename).is_relative_to(folder):
            return f"{text} ({Path(frame.filename).relative_to(folder)}, line {frame.lineno})"
    return text
