"""The errors that end a command with one line: a user's mistake, diverged training, and a requested stop."""

import difflib
import signal
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user's. The message says what is wrong, where, and what would be right.

    The commands print the message alone and exit with 2. Library code raises it like any other exception.
    """


class Diverged(UserError):
    """Training gave a loss, a gradient or a factor that is not finite."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM. The run was saved after `step` steps."""

    def __init__(self, step: int, number: signal.Signals):
        super().__init__(f"{number.name}: stopped after step {step} and saved; the same command resumes it")
        self.code = 128 + number
        """The exit code that a shell gives for the signal: 130 for Ctrl-C, 143 for SIGTERM."""
        self._given = step, number

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int, signal.Signals]]:
        """Rebuild it from its own arguments when unpickled. By default an exception is rebuilt from its message."""
        return Interrupted, self._given


def one_line(error: Exception) -> str:
    """The message of another library's exception, on one line and cut to 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def nearest(name: str, valid: Iterable[str], count: int = 3) -> str:
    """The valid names most like `name`, as a phrase that ends an error message.

    Returns:
        `"did you mean 'a', 'b'?"`, or `"valid: 'a', 'b', ..."` if no name is similar.
    """
    names = sorted(set(valid))
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return "did you mean " + ", ".join(map(repr, close)) + "?"
    shown = ", ".join(map(repr, names[:8])) or "none"
    return f"valid: {shown}" + (f", and {len(names) - 8} more" if len(names) > 8 else "")
