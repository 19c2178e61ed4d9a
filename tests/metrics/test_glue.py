import json
import math
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.core.errors import UserError
from hut_jax.data.glue.tasks import GLUE_TASKS
from hut_jax.metrics.glue import METRICS, accuracy, f1, glue_scores, matthews, pearson, spearman

# True positives 3, false positives 1, false negatives 2, true negatives 4.
PREDICTIONS = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
LABELS = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]

pairs = st.integers(1, 30).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 1), min_size=n, max_size=n)] * 2))
several = st.integers(1, 30).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 3), min_size=n, max_size=n)] * 2))
# Few different values, so that there are ties and constant series.
values = st.integers(2, 30).flatmap(lambda n: st.tuples(*[st.lists(st.integers(-4, 4), min_size=n, max_size=n)] * 2))


def ratio(top, bottom):
    return top / bottom if bottom else 0.0


def ranks(series):
    """1 for the least; equal values share the mean of the ranks that they take."""
    return [sum(x < y for x in series) + (sum(x == y for x in series) + 1) / 2 for y in series]


def correlation(one, two):
    one, two = np.array(one, float), np.array(two, float)
    one, two = one - one.mean(), two - two.mean()
    return ratio((one * two).sum(), math.sqrt((one**2).sum() * (two**2).sum()))


def test_scores_worked_out_by_hand():
    assert accuracy(PREDICTIONS, LABELS) == pytest.approx(0.7)
    assert f1(PREDICTIONS, LABELS) == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert matthews(PREDICTIONS, LABELS) == pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))
    # Deviations -2, -1, 0, 1, 2 and -2, 0, -1, 2, 1.
    assert pearson([1, 2, 3, 4, 5], [1, 3, 2, 5, 4]) == pytest.approx(8 / 10)
    # The ranks of 2, 9, 4, 30, 30 are 1, 3, 2, 4.5, 4.5: deviations -2, 0, -1, 1.5, 1.5.
    assert spearman([1, 2, 3, 4, 5], [2, 9, 4, 30, 30]) == pytest.approx(8.5 / math.sqrt(10 * 9.5))


@settings(max_examples=30, deadline=None)  # the first example imports scikit-learn
@given(pairs)
def test_two_classes_by_their_definitions(series):
    given_, wanted = np.array(series[0]), np.array(series[1])
    tp, fp = ((given_ == 1) & (wanted == 1)).sum(), ((given_ == 1) & (wanted == 0)).sum()
    fn, tn = ((given_ == 0) & (wanted == 1)).sum(), ((given_ == 0) & (wanted == 0)).sum()
    assert accuracy(*series) == pytest.approx((tp + tn) / len(given_))
    assert f1(*series) == pytest.approx(ratio(2 * tp, 2 * tp + fp + fn))
    bottom = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert matthews(*series) == pytest.approx(ratio(tp * tn - fp * fn, bottom), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(several)
def test_accuracy_takes_any_number_of_classes(series):
    assert accuracy(*series) == pytest.approx(np.mean(np.equal(*series)))


@settings(max_examples=30, deadline=None)
@given(values)
def test_correlations_by_their_definitions(series):
    assert pearson(*series) == pytest.approx(correlation(*series), abs=1e-9)
    assert spearman(*series) == pytest.approx(correlation(*map(ranks, series)), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(pairs)
def test_classifications_score_as_in_scikit_learn(series):
    given_, wanted = series
    assert accuracy(given_, wanted) == sklearn.metrics.accuracy_score(wanted, given_)
    assert f1(given_, wanted) == sklearn.metrics.f1_score(wanted, given_, zero_division=0)
    if len({*given_, *wanted}) > 1:  # it warns of a single class
        assert matthews(given_, wanted) == pytest.approx(sklearn.metrics.matthews_corrcoef(wanted, given_), abs=1e-15)


@settings(max_examples=30, deadline=None)
@given(several)
def test_matthews_takes_any_number_of_classes_as_scikit_learn_does(series):
    given_, wanted = series
    if len({*given_, *wanted}) > 1:
        assert matthews(given_, wanted) == pytest.approx(sklearn.metrics.matthews_corrcoef(wanted, given_), abs=1e-15)


@settings(max_examples=30, deadline=None)
@given(values)
def test_correlations_are_scipys_and_0_where_it_has_none(series):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy's, of constant input
        theirs = [scipy.stats.pearsonr(*series).statistic, scipy.stats.spearmanr(*series).statistic]
    ours = [pearson(*series), spearman(*series)]
    assert ours == pytest.approx([0 if math.isnan(value) else value for value in theirs], abs=1e-15)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (accuracy, sklearn.metrics.accuracy_score),
        (f1, sklearn.metrics.f1_score),
        (matthews, sklearn.metrics.matthews_corrcoef),
        (pearson, lambda *series: scipy.stats.pearsonr(*series).statistic),
        (spearman, lambda *series: scipy.stats.spearmanr(*series).statistic),
    ],
)
def test_of_another_prediction_both_have_another_score(ours, theirs):
    scores = [ours(given_, LABELS) for given_ in (PREDICTIONS, [0, *PREDICTIONS[1:]])]
    assert scores == pytest.approx([theirs(LABELS, given_) for given_ in (PREDICTIONS, [0, *PREDICTIONS[1:]])])
    assert scores[0] > scores[1] + 0.05


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("predictions", "labels"),
    [
        ([0, 0, 0], [0, 1, 1]),
        ([1, 1, 1], [0, 0, 0]),
        ([0, 0], [0, 0]),
        ([1, 1], [1, 1]),
        ([1], [1]),
        ([0], [1]),
    ],
)
def test_a_constant_series_gives_a_number_and_no_warning(name, predictions, labels):
    score = METRICS[name](predictions, labels)
    json.dumps(score, allow_nan=False)
    if name in ("matthews", "pearson", "spearman"):
        assert score == 0


@pytest.mark.parametrize("predictions", [[1, 1 + 1e-15, 1], [1e308, -1e308, 1e308], [0, 5e-324, 0]])
def test_values_at_the_edge_of_what_a_float_holds_give_a_number(predictions):
    for metric in (pearson, spearman):
        assert -1 <= metric(predictions, [1.0, 2.0, 0.0]) <= 1


def test_float32_predictions_are_scored_in_float64():
    random = np.random.default_rng(0)
    wanted, given_ = random.uniform(0, 5, 1000).round(1), random.normal(3, 1e-3, 1000).astype(np.float32)
    assert pearson(given_, wanted) == pytest.approx(correlation(given_.astype(np.float64), wanted), abs=1e-12)


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ("cola", {"matthews": 10 / math.sqrt(600)}),
        ("mrpc", {"accuracy": 0.7, "f1": 2 / 3}),
        ("qqp", {"accuracy": 0.7, "f1": 2 / 3}),
        ("rte", {"accuracy": 0.7}),
        ("stsb", {"pearson": 10 / math.sqrt(600), "spearman": 10 / math.sqrt(600)}),
    ],
)
def test_the_score_is_the_mean_of_the_tasks_metrics(task, wanted):
    scores = glue_scores(GLUE_TASKS[task].metrics, PREDICTIONS, LABELS)
    assert scores == pytest.approx({**wanted, "score": sum(wanted.values()) / len(wanted)})
    json.dumps(scores, allow_nan=False)


def test_a_class_is_any_number_of_31_bits():
    assert accuracy([2**31 - 1, 0], [2**31 - 1, 1]) == 0.5
    with pytest.raises(UserError, match=f"prediction 0 is {2**31}; a class from 0 to {2**31 - 1} is expected"):
        accuracy([2**31, 0], [0, 1])
    assert f1([1, 0], [1, 0]) == 1
    with pytest.raises(UserError, match="label 1 is 2; a class from 0 to 1 is expected"):
        f1([0, 1], [0, 2])


def test_every_tasks_metrics_are_here():
    assert {name for task in GLUE_TASKS.values() for name in task.metrics} == set(METRICS)


@pytest.mark.parametrize(
    ("name", "predictions", "labels", "message"),
    [
        ("accuracy", [], [], r"shape \(0,\)"),
        ("accuracy", [1, 0], [1], r"shape \(2,\) and labels \(1,\)"),
        ("accuracy", [[1, 0]], [[1, 0]], r"shape \(1, 2\)"),
        ("accuracy", [0.5, 1.0], [0, 1], "predictions are float64; classes must be integers"),
        ("accuracy", [0, 1], [0, -1], r"label 1 is -1; a class from 0 to"),
        ("f1", [0, 2], [0, 1], "prediction 1 is 2; a class from 0 to 1 is expected"),
        ("pearson", [0.0, math.nan], [0.0, 1.0], "prediction 1 is nan; a finite number is expected"),
        ("spearman", [0.0, 1.0], [math.inf, 1.0], "label 0 is inf; a finite number is expected"),
        ("fi", [0], [0], "no metric 'fi'; did you mean 'f1'"),
    ],
)
def test_what_has_no_score_is_an_error(name, predictions, labels, message):
    with pytest.raises(UserError, match=message):
        glue_scores([name], predictions, labels)
