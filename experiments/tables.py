"""How figures and tables are written."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from experiments.analysis import p_value

DIGITS = {"loss": 2, "NIST": 2}
"""The decimals of a score; others have `USUAL_DIGITS`."""
USUAL_DIGITS = 3


def markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, with its index as the first column; a missing value is an empty cell."""
    head = _row([table.index.name or "", *table.columns])
    rows = map(_row, table.astype(object).fillna("").itertuples())
    return "\n".join([head, "|" + "---|" * (1 + table.shape[1]), *rows])


def _row(cells: Iterable[Any]) -> str:
    return "|" + "".join(f" {cell} |" if cell != "" else " |" for cell in cells)


def digits_of(score_name: str) -> int:
    """The decimals that a score is shown with."""
    return DIGITS.get(score_name, USUAL_DIGITS)


def spread(values: pd.Series, digits: int) -> str:
    """Mean and standard deviation."""
    values = values.dropna()
    if values.empty:
        return ""
    deviation = values.std()  # NaN of a single value
    shown = "" if math.isnan(deviation) else f" ± {deviation:.{2 if deviation >= 0.1 else digits}f}"
    return f"{values.mean():.{digits}f}{shown}"


def difference(differences: pd.Series, digits: int) -> str:
    """The mean with two significant digits, and the p of the paired t-test where there is one."""
    if differences.empty:
        return ""
    mean, p = differences.mean(), p_value(differences)
    second = 1 - math.floor(math.log10(abs(mean))) if mean else digits
    shown = f"{mean:+.{min(digits, max(0, second))}f}"
    return shown if p is None else f"{shown} ({probability(p)})"


def probability(p: float) -> str:
    """A p with two decimals from 0.1 on, with three below 0.1, and with four below 0.001."""
    if p < 0.00005:
        return "<0.0001"
    return f"{p:.{4 if p < 0.001 else 3 if p < 0.1 else 2}f}"


def learning_rate(value: float) -> str:
    """A learning rate such as 1.5e-2."""
    mantissa, exponent = f"{value:.10e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def three_digits(values: pd.Series) -> pd.Series:
    """The numbers as text, with as many decimals as give the largest one three digits."""
    values = values.dropna()
    largest = values.abs().max() if len(values) else 1.0
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest else 0
    return values.map(lambda value: f"{value:,.{decimals}f}")
