"""Labels of every step: what a classifier with target="step" learns, says and counts."""

import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score

import lstmx
from lstmx import LSTMClassifier, predictors

QUICK = {"hidden_size": 5, "target": "step", "max_iter": 3, "batch_size": 8, "random_state": 0}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 7, 2))
LENGTHS = RNG.integers(2, 8, 24)
LENGTHS[0] = 7
VALID = np.arange(7) < LENGTHS[:, None]
PADDED = np.where(VALID[:, :, None], X, np.nan)
RAGGED = [x[:n] for x, n in zip(X, LENGTHS, strict=True)]
SUM = X[:, :, 0].cumsum(axis=1)
LABELS = {
    "two": np.where(SUM > 0, "above", "below"),
    "many": np.digitize(SUM, (-1, 1)) * 3 - 2,
    "multi-label": (X.cumsum(axis=1) > 0).astype(int),
}


def cut(y):
    return [a[:n] for a, n in zip(y, LENGTHS, strict=True)]


def weights(estimator):
    return [p.tobytes() for p in estimator.parameters_.values()]


@pytest.mark.parametrize("y", LABELS.values(), ids=LABELS)
def test_every_form_of_x_and_y_is_learnt_and_answered_alike(y):
    K = len(np.unique(y)) if y.ndim == 2 else 2
    padded = LSTMClassifier(**QUICK).fit(PADDED, y)
    listed = LSTMClassifier(**QUICK).fit(RAGGED, cut(y))
    assert weights(padded) == weights(listed) == weights(LSTMClassifier(**QUICK).fit(PADDED, cut(y)))
    probabilities, each = padded.predict_proba(PADDED), listed.predict_proba(RAGGED)
    assert probabilities.shape == (24, 7, K) and np.array_equal(np.isnan(probabilities[:, :, 0]), ~VALID)
    assert all(np.array_equal(a, b) for a, b in zip(each, cut(probabilities), strict=True))
    np.testing.assert_array_equal(padded.predict_log_proba(PADDED), np.log(probabilities))
    if y.ndim == 2:
        np.testing.assert_allclose(probabilities[VALID].sum(axis=1), 1, rtol=1e-12, atol=0)  # a few roundings
        wanted = [padded.classes_[p.argmax(axis=1)] for p in each]
    else:
        wanted = [(p > 0.5) * 1 for p in each]
    for X_, estimator in ((PADDED, padded), (RAGGED, listed)):
        found = estimator.predict(X_)
        assert isinstance(found, list) and all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
    whole = padded.predict(X)
    assert isinstance(whole, np.ndarray) and whole.shape == y.shape and whole.dtype == y.dtype
    assert np.array_equal(whole[:1], padded.predict(X[:1]))
    assert np.array_equal(whole[3:4, :4], padded.predict(X[3:4, :4]))  # no step sees later ones


def test_labels_on_padding_are_never_read():
    y = LABELS["two"].astype(object)
    want = weights(LSTMClassifier(**QUICK).fit(PADDED, y))
    for fill in (None, np.nan, "something else", "above"):
        other = np.where(VALID, y, fill)
        estimator = LSTMClassifier(**QUICK).fit(PADDED, other)
        assert estimator.classes_.tolist() == ["above", "below"] and weights(estimator) == want
        assert estimator.score(PADDED, other) == LSTMClassifier(**QUICK).fit(PADDED, y).score(RAGGED, cut(y))


def test_it_learns_and_the_score_counts_valid_steps():
    y = LABELS["many"]
    settings = {"target": "step", "max_iter": 60, "tol": 0, "learning_rate_init": 0.03, "random_state": 0}
    estimator = LSTMClassifier(12, **settings).fit(PADDED, y)
    found, wanted = np.concatenate(estimator.predict(PADDED)), y[VALID]
    assert estimator.score(PADDED, y) == accuracy_score(wanted, found) > 0.9
    estimator = LSTMClassifier(**QUICK).fit(PADDED, y)
    found, weight = np.concatenate(estimator.predict(PADDED)), np.linspace(1, 2, 24)
    by_hand = accuracy_score(wanted, found, sample_weight=np.repeat(weight, LENGTHS))
    assert estimator.score(RAGGED, cut(y), weight) == by_hand != accuracy_score(wanted, found)
    assert estimator.score(PADDED, np.where(y == 1, 99, y)) < 0.9  # a label that the model does not know


@pytest.mark.parametrize("form", ["padded", "list"])
def test_early_stopping_scores_valid_steps(form):
    y = LABELS["many"]
    X_, y_ = (PADDED, y) if form == "padded" else (RAGGED, cut(y))
    settings = QUICK | {"early_stopping": True, "validation_from": "tail", "validation_fraction": 0.25, "tol": 1}
    held = LSTMClassifier(**settings, n_iter_no_change=1).fit(X_, y_)
    assert held.best_validation_score_ == held.score(X_[-6:], y_[-6:])
    given = LSTMClassifier(**QUICK).fit(X_[:18], y_[:18], X_val=X_[18:], y_val=y_[18:])
    assert given.validation_scores_[-1] == given.score(X_[18:], y_[18:])
    with pytest.raises(ValueError, match=r"^y_val: has the labels \[99\], which are not among the classes"):
        given.fit(X_[:18], y_[:18], X_val=X, y_val=np.where(y == 1, 99, y))


def test_balanced_weights_count_steps():
    """By hand: a fit to the loss whose weights are those of the steps."""
    y = LABELS["two"]
    rows, counts = np.unique(y[VALID], return_inverse=True)[1], np.unique(y[VALID], return_counts=True)[1]
    share = counts.sum() / (2 * counts)
    settings = QUICK | {"batch_size": 24, "max_iter": 1, "standardize": False}
    estimator = LSTMClassifier(**settings, class_weight="balanced").fit(PADDED, y)
    per_class = dict(zip(("above", "below"), share, strict=True))
    same = LSTMClassifier(**settings, class_weight=per_class).fit(RAGGED, cut(y))
    np.testing.assert_allclose(estimator.loss_, same.loss_, rtol=1e-13)
    plain = lstmx.Sequential([lstmx.LSTM(2, 5, dtype="float64"), lstmx.Dense(5, 1, "sigmoid", dtype="float64")])
    untrained = LSTMClassifier(**settings | {"learning_rate_init": 1e-300}).fit(PADDED, y)
    plain.set_parameters(untrained.parameters_)
    p = plain.predict(PADDED, lengths=LENGTHS)[VALID][:, 0]
    loss = -np.log(np.where(rows == 1, p, 1 - p))
    np.testing.assert_allclose(estimator.loss_, np.average(loss, weights=share[rows]), rtol=1e-12)


@pytest.mark.parametrize("y", [LABELS["many"], LABELS["multi-label"]], ids=["many", "multi-label"])
def test_sample_weights_are_of_sequences(y):
    weight = np.arange(24) % 3
    for more in ({}, {"class_weight": "balanced"}):
        one = LSTMClassifier(**QUICK, **more).fit(PADDED, y, weight)
        chosen = weight > 0
        assert weights(one) == weights(LSTMClassifier(**QUICK, **more).fit(PADDED[chosen], y[chosen], weight[chosen]))
        twice = LSTMClassifier(**QUICK | {"max_iter": 1, "batch_size": 24, "solver": "sgd"}, **more)
        repeated = clone(twice).fit(np.repeat(PADDED, weight, axis=0), np.repeat(y, weight, axis=0))
        np.testing.assert_allclose(twice.fit(PADDED, y, weight).loss_, repeated.loss_, rtol=1e-12)
    # Sequences all of whose steps weigh nothing are left out too; where nothing remains, that is an error.
    if y.ndim == 2:
        alone = np.where(np.arange(24)[:, None] < 12, 1, y)
        zero = LSTMClassifier(**QUICK, class_weight={1: 0.0}).fit(PADDED, alone)
        assert zero.t_ < 3 * 24 and np.isfinite(zero.loss_)
        with pytest.raises(ValueError, match=r"^class_weight: is 0 for every"):
            LSTMClassifier(**QUICK, class_weight={1: 0.0}).fit(PADDED, alone, np.arange(24) < 12)


def test_parts_and_warm_starts():
    y = LABELS["many"]
    estimator = LSTMClassifier(**QUICK)
    estimator.partial_fit(RAGGED[:12], cut(y)[:12], classes=[-2, 1, 4, 7]).partial_fit(PADDED[12:], y[12:])
    assert estimator.classes_.tolist() == [-2, 1, 4, 7] and estimator.predict_proba(X).shape == (24, 7, 4)
    with pytest.raises(ValueError, match=r"^y: has the labels \[5\]"):
        estimator.partial_fit(X, np.full((24, 7), 5))
    warm = LSTMClassifier(**QUICK, warm_start=True).fit(PADDED, y)
    assert len(warm.fit(PADDED, y).loss_curve_) == 6
    with pytest.raises(ValueError, match=r"^y: has the classes .*warm_start needs those of the last fit"):
        warm.fit(PADDED, np.where(y == 1, 4, y))
    with pytest.raises(ValueError, match=r"^target: the last fit had 'step', now it is 'sequence'"):
        warm.set_params(target="sequence").fit(PADDED, y[:, 0])


@pytest.mark.parametrize("form", ["array", "list"])
def test_searches_and_cross_validation(form):
    X_, y = (X, LABELS["two"]) if form == "array" else (RAGGED, cut(LABELS["two"]))
    scores = cross_val_score(LSTMClassifier(**QUICK), X_, y, cv=KFold(3), error_score="raise")
    assert scores[0] == LSTMClassifier(**QUICK).fit(X_[8:], y[8:]).score(X_[:8], y[:8])
    search = GridSearchCV(LSTMClassifier(**QUICK), {"hidden_size": [2, 4]}, cv=KFold(2), error_score="raise").fit(X_, y)
    assert search.best_score_ == search.cv_results_["mean_test_score"].max() and search.score(X_, y) <= 1


def test_features_before_time_leave_labels_as_they_are():
    y = LABELS["two"]
    swapped = LSTMClassifier(**QUICK, layout="NCT").fit(PADDED.swapaxes(1, 2), y)
    assert weights(swapped) == weights(LSTMClassifier(**QUICK).fit(PADDED, y))
    assert swapped.score([x.T for x in RAGGED], cut(y)) == swapped.score(PADDED.swapaxes(1, 2), y)


@pytest.mark.parametrize(("y", "message"), [
    ([*cut(LABELS["two"])[:-1], np.array(["above"] * 9)], r"^y\[23\]: got shape \(9,\), must be \(\d,\): one value"),
    (np.where(np.arange(7) == 1, None, LABELS["two"]),
     r"^y: 24 of \d+ labels are missing, the first in sequence 0, step 1 \(None\); leave"),
    (np.where(np.arange(7) == 1, np.nan, SUM > 0), r"^y: 24 of \d+ labels are missing, .* sequence 0, step 1 \(nan\)"),
    (np.full((24, 7), "a"), r"^y: holds 1 class, 'a'"),
    (SUM, "Unknown label type: continuous"),
    ([np.array(["a"] * n) if n % 2 else np.arange(n) for n in LENGTHS], "^y: holds strings and numbers"),
    (LABELS["multi-label"] * 2 + np.arange(2), r"^y: got shape \(\d+, 2\), must be .*one class per step, or 0 and 1"),
    (X[:, :, :, None], r"^y: got shape \(24, 7, 2, 1\), must be \(n, T\)"),
    (LABELS["two"][:5], "inconsistent numbers of samples"),
])  # fmt: skip
def test_wrong_labels_are_explained(y, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes")
        with pytest.raises(ValueError, match=message):
            LSTMClassifier(**QUICK).fit(PADDED, y)


def test_a_configuration_from_before_there_was_a_target_is_of_sequences():
    config, arrays = LSTMClassifier(**QUICK | {"target": "sequence"}).fit(X, SUM[:, -1] > 0)._predictor.state()
    assert "target" not in config, "what is as it was before is not written"
    old = predictors.Classifier.from_state(config, arrays)
    assert old.config["target"] == "sequence" and old.predict(X).shape == (24,)
