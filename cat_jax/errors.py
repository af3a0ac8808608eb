"""The errors that users read, and the exit codes that schedulers read."""

EXIT_USER_ERROR = 2
"""Bad input: one line on stderr names the thing and the mend."""

EXIT_NONFINITE = 3
"""Training met a loss or gradient that is not finite."""

EXIT_PREEMPTED = 75
"""Training was told to stop (SIGTERM), saved a checkpoint, and wants to be started again (EX_TEMPFAIL)."""


class UserError(Exception):
    """Something that the user can mend: one line that names the thing, and the mend.

    >>> str(UserError("no store at /data/store", "run `cat-jax prepare` first"))
    'no store at /data/store: run `cat-jax prepare` first'
    """

    exit_code = EXIT_USER_ERROR

    def __init__(self, problem: str, mend: str):
        super().__init__(problem, mend)
        self.problem = " ".join(problem.split())
        self.mend = " ".join(mend.split())

    def __str__(self) -> str:
        return f"{self.problem}: {self.mend}"


class NonFiniteError(UserError):
    """A loss, a gradient norm or a log-probability that is NaN or infinite; names where."""

    exit_code = EXIT_NONFINITE


class DataError(UserError):
    """What a task's own code or data gives cannot be used: nothing made of it before may be mixed with what is mended.

    >>> DataError("task 'a' cannot be read", "check its source", "a").task
    'a'
    """

    def __init__(self, problem: str, mend: str, task: str):
        super().__init__(problem, mend)
        self.task = task
        self.args = (problem, mend, task)  # what a worker process hands over


class Preempted(Exception):
    """Raised after SIGTERM once the checkpoint is safe on disk."""

    exit_code = EXIT_PREEMPTED
