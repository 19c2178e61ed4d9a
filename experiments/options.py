"""Options that the experiments' commands share."""

import argparse

import pandas as pd

from experiments.analysis import PEER, select
from hut_jax.core.errors import UserError


def numbers(option: str, text: str, kind: type, *, zero: bool = False) -> list:
    """The numbers of an option, separated by commas.

    Args:
        option: its name in messages.
        text: its value.
        kind: of the numbers, `int` or `float`.
        zero: whether 0 is a valid number.

    Raises:
        UserError: one is no number, is negative, or is 0 without `zero`.
    """
    wanted = f"{'whole numbers' if kind is int else 'numbers'} {'of 0 or more' if zero else 'above 0'}"
    try:
        values = [kind(one) for one in text.split(",")]
        valid = all(value > 0 or (zero and value == 0) for value in values)
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"{option}={text}: {wanted} are wanted")
    return values


def words(text: str) -> list[str]:
    """The words of an option, separated by commas."""
    return text.split(",") if text else []


def add_selection(parser: argparse.ArgumentParser) -> None:
    """The options that select the runs of a study: see `selected`."""
    parser.add_argument("--methods", default="", help="show only these")
    parser.add_argument("--ranks", default="", help="show only these ranks, and adapters without a rank")
    parser.add_argument("--plain", action="store_true", help="show no adapter with settings other than a rank")
    parser.add_argument(
        "--peer",
        default=PEER,
        help=f"the method or adapter with which all others are compared, such as hut:rank=8 (default: {PEER})",
    )


def selected(study: str, runs: pd.DataFrame, args: argparse.Namespace) -> pd.DataFrame:
    """The runs of a study that the options ask for.

    Raises:
        UserError: there are none.
    """
    ranks = numbers("--ranks", args.ranks, int) if args.ranks else []
    chosen = select(runs, methods=words(args.methods), ranks=ranks, plain=args.plain)
    if chosen.empty:
        there = ", ".join(runs["adapter"].unique())
        raise UserError(f"no run of {study} is left by --methods, --ranks and --plain; it has {there}")
    return chosen
