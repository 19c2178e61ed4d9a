"""What every command shares: an argument parser, and errors in one line."""

import argparse
import gc
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax

from hut_jax.core.compilation import keep_compiled
from hut_jax.core.errors import Interrupted, UserError, one_line


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UserError`s of one line."""

    def __init__(self, module: str, doc: str):
        super().__init__(
            prog=f"python -m {module}",
            description=doc,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Called by argparse where the arguments are wrong."""
        raise UserError(f"{message}; {self.prog} --help shows them all")


def run(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Call `main` with the command line and exit; a user's mistake is one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that has no é is no reason to end
    keep_compiled()
    gc.freeze()  # what was imported stays; to look through it at each collection would hold up the first step
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        sys.exit(1)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        print(
            f"error: another process of this run has ended or cannot be reached ({one_line(error)}); "
            "the same command, in all of them, resumes from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # leaving in good order would be to wait for the others
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(interrupted.code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
