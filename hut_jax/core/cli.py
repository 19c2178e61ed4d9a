"""The argument parser of the commands, and their errors in one line."""

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
        """Raise argparse's message as a `UserError`."""
        raise UserError(f"{message}; {self.prog} --help lists the arguments")


def run(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Call `main` with the command line and exit. A user's mistake gives one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show é must not end the command
    keep_compiled()
    gc.freeze()  # imported objects stay; checking them at each collection would delay the first step
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
            "the same command in every process resumes from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # a normal exit would wait for the other processes
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(interrupted.code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
