"""GLUE's metrics (Wang et al., arXiv 1804.07461, 2018, section 2), by scikit-learn and SciPy.

A metric that is 0/0, such as the correlation with constant predictions, counts as 0, the score of a guess.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from hut_jax.core.errors import UserError, nearest

Classes = Int64[np.ndarray, " n"]
Values = Float64[np.ndarray, " n"]


def accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The share of correct predictions.

    Raises:
        UserError: there are no predictions, not as many as labels, or some are not classes.
    """
    from sklearn.metrics import accuracy_score  # a second to import

    given, wanted = _classes(predictions, labels)
    return float(accuracy_score(wanted, given))


def f1(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The harmonic mean of precision and recall of class 1; 0 if the class is neither predicted nor a label.

    Raises:
        UserError: as for `accuracy`, or a class is neither 0 nor 1.
    """
    from sklearn.metrics import f1_score

    given, wanted = _classes(predictions, labels, most=1)
    return float(f1_score(wanted, given, zero_division=0))


def matthews(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The correlation of two classifications (Matthews 1975); 0 if one of them has a single class.

    Raises:
        UserError: as for `accuracy`.
    """
    from sklearn.metrics import matthews_corrcoef

    given, wanted = _classes(predictions, labels)
    # Checked first, since scikit-learn warns about its confusion matrix where both have one class.
    return 0.0 if _is_constant(given) or _is_constant(wanted) else float(matthews_corrcoef(wanted, given))


def pearson(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The linear correlation of two series; 0 if one of them is constant.

    Raises:
        UserError: there are no predictions, not as many as labels, or some are not finite.
    """
    from scipy.stats import pearsonr

    given, wanted = _values(predictions, labels)
    if _is_constant(given) or _is_constant(wanted):
        return 0.0
    with warnings.catch_warnings():  # about values that are constant up to rounding
        warnings.simplefilter("ignore")
        value = float(pearsonr(given, wanted).statistic)
    return value if np.isfinite(value) else 0.0


def spearman(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The correlation of the ranks of two series, where equal values share their mean rank; 0 if one is constant.

    Raises:
        UserError: as for `pearson`.
    """
    from scipy.stats import spearmanr

    given, wanted = _values(predictions, labels)
    return 0.0 if _is_constant(given) or _is_constant(wanted) else float(spearmanr(given, wanted).statistic)


METRICS: Mapping[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def glue_scores(names: Sequence[str], predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """A task's metrics and its `score`, their mean, as on the leaderboard of GLUE.

    The score of CoLA is the Matthews correlation. For MRPC and QQP it is the mean of accuracy and F1, and for STS-B the
    mean of the Pearson and Spearman correlations. For all other tasks it is the accuracy. All scores are finite and at
    most 1.

    Args:
        names: of the metrics, as in a `GlueTask`.
        predictions: classes, or values for the correlations.
        labels: of the same kind.

    Raises:
        UserError: a metric is unknown, or does not take these predictions and labels.
    """
    for name in names:
        if name not in METRICS:
            raise UserError(f"no metric {name!r}; {nearest(name, METRICS)}")
    scores = {name: METRICS[name](predictions, labels) for name in names}
    return {**scores, "score": sum(scores.values()) / len(scores)}


def _classes(predictions: ArrayLike, labels: ArrayLike, most: int = 2**31 - 1) -> tuple[Classes, Classes]:
    given, wanted = _pair(predictions, labels)
    for what, array in (("prediction", given), ("label", wanted)):
        if not np.issubdtype(array.dtype, np.integer):
            raise UserError(f"the {what}s are {array.dtype}; classes must be integers")
        bad = np.flatnonzero((array < 0) | (array > most))
        if len(bad):
            raise UserError(f"{what} {bad[0]} is {array[bad[0]]}; a class from 0 to {most} is expected")
    return given.astype(np.int64), wanted.astype(np.int64)


def _values(predictions: ArrayLike, labels: ArrayLike) -> tuple[Values, Values]:
    given, wanted = (array.astype(np.float64) for array in _pair(predictions, labels))
    for what, array in (("prediction", given), ("label", wanted)):
        bad = np.flatnonzero(~np.isfinite(array))
        if len(bad):
            raise UserError(f"{what} {bad[0]} is {array[bad[0]]}; a finite number is expected")
    return given, wanted


def _pair(predictions: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    given, wanted = np.asarray(predictions), np.asarray(labels)
    if given.ndim != 1 or given.shape != wanted.shape or not len(given):
        raise UserError(
            f"predictions have shape {given.shape} and labels {wanted.shape}; one of each for each example is expected"
        )
    return given, wanted


def _is_constant(array: np.ndarray) -> bool:
    return bool((array == array[0]).all())
