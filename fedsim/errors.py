"""The ways in which fedsim says no."""


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
    """The run could not go on, and why may depend on the data: with the operating system's noise its log alone has it."""

    def __init__(self) -> None:
        super().__init__("the run could not go on; private/log.txt in its directory says why")


class Interrupted(RunFailed):
    """The run was told to end (SIGINT, SIGTERM) and did, after a whole round.

    The message says which, and how the run goes on. The command line prints it and exits with 1.
    """
