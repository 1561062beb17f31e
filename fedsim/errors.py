"""fedsim's exceptions."""


class Refused(ValueError):
    """The input is not usable: nothing was run and nothing was written.

    The message is one line that names the key, the value and what is allowed. The command line prints it
    and exits with 2.
    """


class RunFailed(RuntimeError):
    """The run began and could not go on.

    The message names the round and the first reason. The command line prints it and exits with 1.
    """


class Withheld(RunFailed):
    """The run failed for a reason that may depend on the data; with the operating system's noise only its log has it."""

    def __init__(self) -> None:
        super().__init__("the run could not go on; private/log.txt in its directory says why")


class Interrupted(RunFailed):
    """A signal (SIGINT, SIGTERM) ended the run after a whole round.

    The message names the round and how to resume. The command line prints it and exits with 1.
    """
