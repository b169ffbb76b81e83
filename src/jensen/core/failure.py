"""What stops a run, a check or a process without being a mistake in its arguments."""


class Failure(RuntimeError):
    """A run, a check or a process failed, for the reason that the message gives in one sentence: exit code 1."""


class Told(Exception):
    """Processes that this one has started have ended, and have said why: the command ends with their exit code."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


class Left(Failure):
    """Another process ended while this one waited for it."""
