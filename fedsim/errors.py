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


class Interrupted(RunFailed):
    """The run was told to end (SIGINT, SIGTERM) and did, after a whole round.

    The message says which, and how the run goes on. The command line prints it and exits with 1.
    """
