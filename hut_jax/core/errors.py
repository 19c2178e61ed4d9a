"""What ends a command in one line: a user's mistake, with the help it carries, and a stop that was asked for."""

import difflib
import signal
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave is wrong; the message says what, where, and what would be right.

    The commands print the message alone and exit with 2; library code raises it as any other exception.
    """


class Diverged(UserError):
    """Training has come to a loss, a gradient or a factor that is no finite number."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the run was saved after this many steps."""

    def __init__(self, step: int, number: signal.Signals):
        super().__init__(f"{number.name}: stopped after step {step} and saved; the same command resumes it")
        self.code = 128 + number
        """The exit code, as a shell gives it for the signal: 130 for Ctrl-C, 143 for SIGTERM."""
        self._given = step, number

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int, signal.Signals]]:
        """How it goes from one process to another: an exception's own way would make it of its message alone."""
        return Interrupted, self._given


def one_line(error: Exception) -> str:
    """Another library's exception as the reason within a message: on one line, and not too long."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def nearest(name: str, valid: Iterable[str], count: int = 3) -> str:
    """The valid names most like `name`, as a phrase to end an error message with.

    Returns:
        `"did you mean 'a', 'b'?"`, or `"valid: 'a', 'b', ..."` where nothing is alike.
    """
    names = sorted(set(valid))
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return "did you mean " + ", ".join(map(repr, close)) + "?"
    shown = ", ".join(map(repr, names[:8])) or "none"
    return f"valid: {shown}" + (f", and {len(names) - 8} more" if len(names) > 8 else "")
