"""The argument parser of the commands, and their errors in one line."""

import argparse
import gc
import io
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import jax

from hut_jax.core.compilation import keep_compiled
from hut_jax.core.errors import Interrupted, UserError, nearest, one_line

Main = Callable[[Sequence[str]], int | None]
"""A command: takes the arguments, and returns the exit code."""
FIELD = "--config."
"""The beginning of an argument that sets a field of the config."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UserError`s of one line.

    Attributes:
        fields: fields of a config that an unknown option may have meant.
    """

    def __init__(self, module: str, doc: str):
        script = f"hut-{module.rpartition('.')[2]}"
        super().__init__(
            prog=script if Path(sys.argv[0]).stem == script else f"python -m {module}",
            description=doc,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.fields: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, but name an unknown option first, which is often a required one misspelt.

        Fields of a config (`--config.seed=1`) may be left over.

        Raises:
            UserError: an option is unknown or missing, or its value is not of its type.
        """
        args = list(sys.argv[1:] if args is None else args)
        options = args[: args.index("--")] if "--" in args else args
        for name in [] if {"-h", "--help"} & {*options} else [option.partition("=")[0] for option in options]:
            known = name.startswith(FIELD) or name in self._option_string_actions or " " in name
            if name.startswith("--") and not known:
                valid = [*self._option_string_actions, *(FIELD + field for field in self.fields)]
                raise UserError(f"unknown argument {name}; {nearest(name, valid)}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message as a `UserError`."""
        raise UserError(f"{message}; {self.prog} --help lists the arguments")


def script(main: Main) -> Callable[[], NoReturn]:
    """What a console script such as hut-train calls for a command."""
    return partial(run, main)


def run(main: Main) -> NoReturn:
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
