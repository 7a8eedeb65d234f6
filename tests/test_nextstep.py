"""LSTMAnomalyDetector and LSTMTransformer: what they train on, and what they make of the network, by plain loops."""

import copy
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lstmx
from lstmx import training
from lstmx.functional.context import SequenceContext
from lstmx.predictors.nextstep import behind

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.covariance import EmpiricalCovariance, MinCovDet
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from lstmx import LSTMAnomalyDetector, LSTMTransformer

# Standardising multiplies by a reciprocal where the test divides: 2 roundings of the inputs, carried through a few
# dozen steps of a network of a few units.
STANDARDISED = {"float64": {"rtol": 1e-11, "atol": 1e-12}, "float32": {"rtol": 2e-4, "atol": 2e-5}}
# A quadratic form of errors of order 1 with a precision of order 1 to 100, in another order.
FORM = {"rtol": 1e-9, "atol": 1e-9}


def generator(seed=0):
    return np.random.default_rng(seed)


def fit(estimator, X, **more):
    """`fit`, which may well not have converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(X, **more)


def detector(**parameters):
    return LSTMAnomalyDetector(**({"hidden_size": 4, "max_iter": 3, "random_state": 0} | parameters))


def transformer(**parameters):
    return LSTMTransformer(**({"hidden_size": 4, "max_iter": 3, "random_state": 0} | parameters))


def sequences(count=12, steps=9, features=2, seed=0):
    """(n, T, F): features of other scales and levels that depend on what was before."""
    noise = generator(seed).normal(size=(count, steps, features))
    return noise.cumsum(axis=1) * 10.0 ** np.arange(features) + 3


RAGGED = [3, 9, 1, 7, 7, 2, 12, 5, 4, 9, 10, 6]


def ragged(features=2, lengths=RAGGED):
    return [a[:n] for a, n in zip(sequences(len(lengths), 12, features), lengths, strict=True)]


def padded(arrays):
    out = np.full((len(arrays), max(map(len, arrays)), arrays[0].shape[1]), np.nan, arrays[0].dtype)
    for row, a in zip(out, arrays, strict=True):
        row[: len(a)] = a
    return out


def moments(arrays):
    """Mean and deviation of the features over all steps."""
    rows = np.concatenate(arrays).astype(np.float64)
    return rows.mean(axis=0), rows.std(axis=0)


# One step behind.


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=8), features=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_behind(lengths, features):
    context = SequenceContext(np.array(lengths, np.int64), max(lengths), "list")
    x = [generator(n).normal(size=(length, features)) for n, length in enumerate(lengths)]
    rows = context.pack(x)
    before = rows.copy()
    found = context.unpack(behind(rows, context))
    for a, late in zip(x, found, strict=True):
        assert len(late) == len(a)
        for t in range(len(a)):
            np.testing.assert_array_equal(late[t], a[t - 1] if t else np.zeros(features))
    np.testing.assert_array_equal(rows, before)


class Stop(Exception):
    """Raised in place of training."""


@pytest.fixture
def intercepted(monkeypatch):
    """The Trainer that `fit` makes; nothing is trained."""

    def intercept(estimator, X, **more):
        found = []

        def run(self, epochs):
            found.append(self)
            raise Stop

        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(training.Trainer, "run", run)
            estimator.fit(X, **more)
        return found[0]

    return intercept


def all_of(data):
    """(inputs, targets, weights), each a list of (T_i, ..), of training data."""
    rows, context, targets, weights = data.batch(np.arange(len(data.inputs.lengths)))
    context = SequenceContext(context.lengths, 0, "list")
    return context.unpack(rows), context.unpack(targets), [w[:, 0] for w in context.unpack(weights[:, None])]


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", ["list", "padded"])
def test_training_is_on_what_follows(intercepted, form, weighted, early_stopping):
    X = ragged()
    weight = generator(1).uniform(1, 2, size=len(X)) if weighted else None
    estimator = transformer(early_stopping=early_stopping, validation_fraction=0.25)
    trainer = intercepted(estimator, padded(X) if form == "padded" else X, sample_weight=weight)
    weight = np.ones(len(X)) if weight is None else weight
    seen = 9 if early_stopping else 12  # means and deviations are of what training sees alone
    each = np.repeat(weight[:seen], RAGGED[:seen])[:, None]
    rows = np.concatenate(X[:seen])
    mean = (each * rows).sum(axis=0) / each.sum()
    deviation = np.sqrt((each * (rows - mean) ** 2).sum(axis=0) / each.sum())
    held = trainer.validation
    assert (held is not None) == early_stopping
    places = [range(9), range(9, 12)] if early_stopping else [range(12)]
    for data, chosen in zip([trainer.data, held], places, strict=False):
        inputs, targets, weights = all_of(data)
        assert len(inputs) == len(chosen)
        for i, x in enumerate(chosen):
            z = (X[x] - mean) / deviation
            np.testing.assert_allclose(targets[i], z, **STANDARDISED["float64"])
            np.testing.assert_allclose(inputs[i][1:], z[:-1], **STANDARDISED["float64"])
            assert (inputs[i][0] == 0).all()
            np.testing.assert_array_equal(weights[i], weight[x])


@pytest.mark.parametrize("kind", [transformer, detector])
def test_windows_cover_every_step_of_long_series(intercepted, kind):
    lengths = [50, 20, 21, 7, 40, 1]
    X = [np.arange(n, dtype=np.float64)[:, None] + 1000 * k for k, n in enumerate(lengths)]  # every step is another
    trainer = intercepted(kind(window=20, standardize=False), X)
    inputs, targets, _ = all_of(trainer.data)
    seen = [set() for _ in lengths]
    for late, target in zip(inputs, targets, strict=True):
        owner, first = int(target[0, 0]) // 1000, int(target[0, 0]) % 1000
        # A stretch is consecutive steps of one series, and is predicted from nothing before it.
        np.testing.assert_array_equal(target, X[owner][first : first + len(target)])
        np.testing.assert_array_equal(late, np.concatenate([[[0]], target[:-1]]))
        assert len(target) == min(20, lengths[owner])
        seen[owner] |= set(range(first, first + len(target)))
    assert seen == [set(range(n)) for n in lengths]
    assert len(inputs) == 3 + 1 + 2 + 1 + 2 + 1  # and no more than are needed


def test_windows_of_one_long_series_are_not_copied(intercepted):
    X = generator().normal(size=(1, 5000, 2))
    for form in (X, list(X)):
        data = intercepted(transformer(window=50), form).data
        assert len(data.inputs) == 100
        assert data.inputs.x.nbytes <= 2 * X.nbytes
        inputs, _, _ = all_of(data)
        assert sum(map(len, inputs)) == 5000


@pytest.mark.parametrize("kind", [transformer, detector])
@pytest.mark.parametrize("window", [12, 13, 10**6])
def test_a_window_of_all_steps_or_more_is_whole_sequences(kind, window):
    X = ragged()
    whole, windowed = fit(kind(), X), fit(kind(window=window), X)
    for name, p in whole.parameters_.items():
        np.testing.assert_array_equal(p, windowed.parameters_[name])
    assert whole.loss_curve_ == windowed.loss_curve_
    other = fit(kind(window=11), X)  # one sequence has 12 steps
    assert other.loss_curve_ != whole.loss_curve_


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("window", [None, 4])
def test_weights_of_one_are_no_weights(window, early_stopping):
    parameters = {"window": window, "early_stopping": early_stopping}
    # alpha is per sample as in MLPClassifier: were it divided by another sum of weights, it would act differently.
    X = sequences(20)
    plain = fit(transformer(alpha=10.0, **parameters), X)
    ones = fit(transformer(alpha=10.0, **parameters), X, sample_weight=np.ones(20))
    np.testing.assert_array_equal(plain.transform(X), ones.transform(X))
    assert plain.loss_curve_ == ones.loss_curve_


def test_too_little_to_hold_out():
    with pytest.raises(ValueError, match=r"^validation_fraction: 0.1 of 1 sequences or windows leaves 0"):
        detector(early_stopping=True).fit(sequences(1, 40))
    with pytest.raises(ValueError, match=r"^validation_fraction: 0.1 of 2 sequences or windows leaves 0"):
        transformer(early_stopping=True).fit(sequences(20), sample_weight=np.r_[np.zeros(18), 1, 1])
    found = fit(detector(early_stopping=True, window=4), sequences(1, 40))
    assert len(found.validation_scores_) == found.n_iter_


@pytest.mark.parametrize("window", [0, -3, 2.5, "all", True])
def test_windows_that_are_none(window):
    for kind in (detector, transformer):
        with pytest.raises((ValueError, TypeError), match=r"^window:"):
            kind(window=window).fit(sequences())


# The detector.


def errors_by_hand(estimator, arrays, shift, scale):
    """What was predicted less what came: the network makes one step at a time."""
    model, found = estimator.model_, []
    for x in arrays:
        z = ((x - shift) / scale).astype(model.dtype)
        state, before, errors = None, np.zeros_like(z[0]), []
        for row in z:
            predicted, state = model.step(before, state)
            errors.append(predicted - row)
            before = row
        found.append(np.array(errors, np.float64))
    return found


def scores_by_hand(estimator, errors):
    """Minus squared Mahalanobis distances, step by step."""
    inverse = np.linalg.inv(estimator.covariance_)
    return [np.array([-((e - estimator.location_) @ inverse @ (e - estimator.location_)) for e in a]) for a in errors]


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scores_are_distances_of_errors(dtype, features, standardize, num_layers):
    X = [a.astype(dtype) for a in ragged(features)]
    estimator = fit(detector(standardize=standardize, num_layers=num_layers), X)
    assert estimator.model_.dtype == dtype
    shift, scale = moments(X) if standardize else (0, 1)
    errors = errors_by_hand(estimator, X, shift, scale)
    found = estimator._predictor.errors(estimator._read(X))
    size = max(np.abs(e).max() for e in errors)  # without standardising, errors are of the size of the data
    for a, b in zip(found, errors, strict=True):
        tolerance = STANDARDISED[dtype]
        np.testing.assert_allclose(a, b, rtol=tolerance["rtol"], atol=tolerance["atol"] * size)
    steps = estimator.score_steps(X)
    # The precision enlarges the rounding of errors: the condition is that of the covariance, up to 1e3 here.
    tolerance = FORM if dtype == "float64" else {"rtol": 2e-2, "atol": 2e-2}
    for a, b in zip(steps, scores_by_hand(estimator, errors), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)
        assert (a <= 0).all()
    for aggregate, function in (("mean", np.mean), ("max", np.min)):  # the strangest step has the lowest score
        whole = fit(clone(estimator).set_params(aggregate=aggregate), X)
        np.testing.assert_allclose(whole.score_samples(X), [function(s) for s in steps], **FORM)
        np.testing.assert_allclose(whole.decision_function(X), whole.score_samples(X) - whole.offset_, **FORM)


def test_location_and_covariance_are_robust():
    X = generator(1).normal(size=(60, 10, 2))
    clean = fit(detector(standardize=False, max_iter=1), X)
    spoilt = X.copy()
    out = generator(2).random(size=X.shape[:2]) < 0.1
    spoilt[out] += 1e5
    # The network sees outliers too, so only the measure is compared: the errors of one network.
    for estimator, data in ((clean, X), (clean, spoilt)):
        errors = np.concatenate(errors_by_hand(estimator, X, 0, 1))
        errors[out.reshape(-1)] += 0 if data is X else 1e5
        location, covariance = estimator._robust(errors)
        empirical = EmpiricalCovariance().fit(errors)
        # 540 clean steps of 600: a mean is off by 1/sqrt(540) = 4 %, a variance by sqrt(2/540) = 6 %; three of them.
        np.testing.assert_allclose(location, clean.location_, rtol=0, atol=0.12)
        np.testing.assert_allclose(covariance, clean.covariance_, rtol=0, atol=0.18)
    assert np.abs(empirical.location_).min() > 5e3 and np.diag(empirical.covariance_).min() > 5e8


def test_gross_outliers_in_training_do_not_hide():
    X = generator(1).normal(size=(40, 12, 2))
    for size in (30, 1e6):
        spoilt = X.copy()
        spoilt[:4, 5] += size
        estimator = fit(detector(standardize=False, contamination=0.1), spoilt)
        assert (estimator.predict(spoilt) == -1).nonzero()[0].tolist() == [0, 1, 2, 3]
        assert (estimator.score_steps(spoilt)[:4].argmin(axis=1) == 5).all()
        # The measure is that of ordinary steps: most of their distances are those of a chi-squared of 2.
        assert -10 < np.median(estimator.score_steps(spoilt)) < -0.1


def test_the_covariance_is_scikit_learns():
    errors = generator(3).normal(size=(300, 3)) @ generator(4).normal(size=(3, 3))
    for scale in (1.0, 1e-7, 1e7):  # which takes variances below 1e-8 for nothing
        location, covariance = detector()._robust(scale * errors)
        wanted = MinCovDet(random_state=0).fit(errors)
        np.testing.assert_allclose(location, scale * wanted.location_, rtol=1e-6, atol=1e-9 * scale)
        np.testing.assert_allclose(covariance, scale**2 * wanted.covariance_, rtol=1e-6, atol=1e-7 * scale**2)
    errors[:100] += 4  # now it matters how many errors support the estimate
    full = detector(support_fraction=1.0)._robust(errors)
    wanted = MinCovDet(support_fraction=1.0, random_state=0).fit(errors)
    np.testing.assert_allclose(full[1], wanted.covariance_, rtol=1e-6, atol=1e-7)
    assert np.abs(full[1] - detector()._robust(errors)[1]).max() > 0.1


def test_a_feature_of_small_numbers_counts_as_much():
    # Not standardised, one feature's variance is 1e-18 of the other's: less than the rounding of an inverse.
    X = generator(1).normal(size=(40, 12, 2)) * [1, 1e9]
    estimator = fit(detector(standardize=False), X)
    strange = X[:1].copy()
    strange[0, 6, 0] += 30  # deviations of its own
    assert estimator.score_steps(strange)[0].argmin() == 6
    assert estimator.score_steps(strange)[0, 6] < 10 * estimator.score_steps(X).min()


@pytest.mark.parametrize("contamination", [0.01, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_contamination_is_the_share_of_outliers_in_training(aggregate, contamination):
    X = sequences(40, 10)
    estimator = fit(detector(contamination=contamination, aggregate=aggregate), X)
    assert abs((estimator.predict(X) == -1).mean() - contamination) <= 1 / 40
    assert abs((estimator.predict_steps(X) == -1).mean() - contamination) <= 1 / 400
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = clone(estimator).fit_predict(X)
    np.testing.assert_array_equal(labels, np.where(estimator.score_samples(X) < estimator.offset_, -1, 1))


def test_at_the_threshold_is_ordinary():
    X = sequences(15, 9)  # odd numbers of sequences and of steps: the median is one of them
    estimator = fit(detector(contamination=0.5), X)
    labels = estimator.predict(X)
    assert (labels == -1).sum() == 7 and labels[estimator.score_samples(X) == estimator.offset_] == 1
    assert (estimator.predict_steps(X) == -1).sum() == 67


@pytest.mark.parametrize(
    ("name", "value"),
    [("contamination", 0), ("contamination", 0.6), ("contamination", "auto"), ("aggregate", "median"),
     ("aggregate", None), ("support_fraction", 0), ("support_fraction", 1.5), ("support_fraction", "a")],
)  # fmt: skip
def test_parameters_of_the_detector(name, value):
    with pytest.raises((ValueError, TypeError), match=f"^{name}:"):
        detector(**{name: value}).fit(sequences())


def test_steps_in_every_form():
    X = ragged()
    estimator = fit(detector(contamination=0.2), X)
    scores, labels = estimator.score_steps(X), estimator.predict_steps(X)
    assert isinstance(scores, list) and isinstance(labels, list)
    assert [a.shape for a in scores] == [a.shape for a in labels] == [(n,) for n in RAGGED]
    for s, label in zip(scores, labels, strict=True):
        assert label.dtype.kind == "i"
        np.testing.assert_array_equal(label, np.where(s < estimator.step_offset_, -1, 1))
    assert {-1, 1} == set(np.concatenate(labels).tolist())
    found, found_labels = estimator.score_steps(padded(X)), estimator.predict_steps(padded(X))
    assert found.shape == found_labels.shape == (12, 12) and found_labels.dtype == np.int64
    for row, row_labels, s, label in zip(found, found_labels, scores, labels, strict=True):
        np.testing.assert_array_equal(row[: len(s)], s)
        np.testing.assert_array_equal(row_labels[: len(s)], label)
        assert np.isnan(row[len(s) :]).all() and (row_labels[len(s) :] == 0).all()
    np.testing.assert_array_equal(estimator.score_samples(padded(X)), estimator.score_samples(X))
    swapped = copy.deepcopy(estimator).set_params(layout="NCT")
    swapped = fit(swapped, [a.T for a in X])
    for a, b in zip(swapped.score_steps([a.T for a in X]), scores, strict=True):
        np.testing.assert_allclose(a, b, **FORM)
    assert swapped.score_steps(padded(X).swapaxes(1, 2)).shape == (12, 12)


def test_one_feature_as_a_table():
    X = sequences(15, 8, 1)
    estimator = fit(detector(), X[:, :, 0])
    other = fit(detector(), X)
    np.testing.assert_array_equal(estimator.score_steps(X[:, :, 0]), other.score_steps(X))
    assert estimator.n_features_in_ == 8 and other.n_features_in_ == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_score_does_not_depend_on_the_others(dtype):
    X = [sequences(1, 23, 3, seed=n)[0, : 1 + 7 * n % 23].astype(dtype) for n in range(40)]
    estimator = fit(detector(hidden_size=9), X)
    scores, steps = estimator.score_samples(X), estimator.score_steps(X)
    for chosen in ([0], [5], [39, 3], list(range(39, -1, -1)), [7] * 5):
        found = estimator.score_samples([X[n] for n in chosen])
        np.testing.assert_array_equal(found, scores[chosen])
        for n, s in zip(chosen, estimator.score_steps([X[n] for n in chosen]), strict=True):
            np.testing.assert_array_equal(s, steps[n])
    # Nor does a step's on what comes after it.
    for n in (1, 6, 39):
        np.testing.assert_array_equal(estimator.score_steps([X[n][:2]])[0], steps[n][:2])
    many = estimator.score_samples(X * 20)  # more than are run at once
    np.testing.assert_array_equal(many, np.tile(scores, 20))
    with lstmx.num_threads(1):
        np.testing.assert_array_equal(estimator.score_samples(X), scores)


@pytest.mark.parametrize("window", [None, 60])
def test_a_planted_anomaly_is_the_strangest_step(window):
    t = np.arange(900)
    series = np.stack([np.sin(t / 5), np.cos(t / 5)], axis=1) + 0.03 * generator().normal(size=(900, 2))
    parameters = {"hidden_size": 12, "max_iter": 40, "learning_rate_init": 0.02, "tol": 0}
    if window is None:
        estimator = fit(detector(**parameters), series[:600].reshape(10, 60, 2))
    else:
        estimator = fit(detector(window=window, **parameters), series[None, :600])
    # Each value is an ordinary one of the series: only from what came before is it strange.
    strange = series[600:].copy()
    strange[150] = -strange[150]
    scores = estimator.score_steps(strange[None])[0]
    assert scores[1:].argmin() + 1 == 150  # the first step is predicted from nothing
    ordinary = estimator.score_steps(series[None, 600:])[0]
    assert scores[150] < 5 * ordinary[1:].min()
    pieces = np.stack([series[600:660], strange[120:180]])
    assert estimator.score_samples(pieces).argmin() == 1
    swapped = fit(clone(estimator).set_params(aggregate="max"), series[:600].reshape(10, 60, 2))
    assert swapped.score_samples(pieces).argmin() == 1


@pytest.mark.parametrize("features", [1, 2])
def test_features_that_do_not_vary(features):
    X = np.full((20, 6, features), 3.0)
    estimator = fit(detector(), X)  # without scikit-learn's warnings and errors
    assert np.isfinite(estimator.score_samples(X)).all()
    strange = X[:1].copy()
    strange[0, 4, 0] = 4
    assert estimator.score_steps(strange)[0].argmin() == 4
    mixed = np.concatenate([sequences(20, 6, 2), X], axis=2)
    estimator = fit(detector(), mixed)
    assert np.isfinite(estimator.score_samples(mixed)).all()
    strange = mixed[:1].copy()
    strange[0, 4, 2] = 9
    assert estimator.score_steps(strange)[0].argmin() == 4


def test_the_same_feature_twice():
    one = sequences(20, 8, 1)
    X = np.concatenate([one, one], axis=2)
    estimator = fit(detector(), X)
    assert np.isfinite(estimator.score_samples(X)).all()
    strange = X[:1].copy()
    strange[0, 5] += [2.0, -2.0]  # each is nothing unusual: that they differ is
    assert estimator.score_steps(strange)[0].argmin() == 5


@pytest.mark.parametrize(
    ("count", "steps", "features"),
    [(1, 2, 1), (1, 3, 1), (2, 2, 1), (1, 2, 3), (2, 2, 3), (7, 2, 3), (5, 2, 4), (2, 3, 2)],
)
def test_very_few_steps(count, steps, features):
    X = sequences(count, steps, features)
    estimator = fit(detector(), X)
    scores = estimator.score_samples(X)
    assert scores.shape == (count,) and np.isfinite(scores).all() and (scores <= 0).all()
    assert np.linalg.eigvalsh(estimator.covariance_).min() > 0


@pytest.mark.parametrize("kind", [detector, transformer])
def test_sequences_of_one_step_predict_nothing(kind):
    with pytest.raises(
        ValueError, match=r"^X: got 30 sequences of one step.*one series of shape \(T, F\) is X\[None\]"
    ):
        kind().fit(sequences(1, 30)[0][:, None])
    fit(kind(), [*sequences(3, 4), *sequences(2, 1)])  # among longer ones they may be


def test_one_series_is_not_taken_for_sequences_of_one_step():
    series = generator().normal(size=(30, 1))
    detector = fit(LSTMAnomalyDetector(hidden_size=3, max_iter=1, random_state=0), series[None])
    for one in (detector, detector._predictor):
        for method in ("predict", "score_steps", "score_samples"):
            with pytest.raises(ValueError, match=r"^X: got 30 sequences of one step.*is X\[None\]"):
                getattr(one, method)(series)
    assert len(detector.predict([series[:1]])) == 1  # which a list says


def test_covariance_of_many_steps_is_from_some_of_them(monkeypatch):
    from lstmx.estimators import _nextstep

    X = sequences(50, 20)
    whole = fit(detector(), X)
    monkeypatch.setattr(_nextstep, "MOST_ERRORS", 400)
    some, again = fit(detector(), X), fit(detector(), X)
    assert (some.covariance_ != whole.covariance_).any()
    np.testing.assert_array_equal(some.covariance_, again.covariance_)
    # 400 of 1,000: a variance is off by sqrt(2/400) = 7 %, and thresholds are of all.
    np.testing.assert_allclose(np.diag(some.covariance_), np.diag(whole.covariance_), rtol=0.35, atol=0)
    assert abs((some.predict(X) == -1).mean() - 0.1) <= 1 / 50


def test_scores_of_many_steps_and_features_need_little_memory():
    X = generator().normal(size=(1, 4000, 40))
    estimator = fit(detector(max_iter=1), X[:, :50])
    tracemalloc.start()
    estimator.score_steps(X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * X.nbytes  # steps by features by features would be 40 times as much


# The transformer.


def states_by_hand(estimator, arrays, shift, scale):
    """The hidden states after each step, of a row of zeros and the standardised sequence, one step at a time."""
    lstm, found = estimator.model_.layers[0], []
    for x in arrays:
        z = ((x - shift) / scale).astype(lstm.dtype)
        state, rows = None, []
        for row in [np.zeros_like(z[0]), *z]:
            y, state = lstm.step(row, state)
            rows.append(y)
        found.append(np.array(rows[1:]))  # the sequence's own steps
    return found


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_features_are_hidden_states(dtype, pooling, num_layers):
    X = [a.astype(dtype) for a in ragged(3)]
    estimator = fit(transformer(pooling=pooling, hidden_size=5, num_layers=num_layers), X)
    found = estimator.transform(X)
    assert found.dtype == dtype and found.shape == (12, 5)
    for states, features in zip(states_by_hand(estimator, X, *moments(X)), found, strict=True):
        wanted = states[-1] if pooling == "last" else states.mean(axis=0)
        np.testing.assert_allclose(features, wanted, **STANDARDISED[dtype])
    for other in (padded(X), padded(X)[:, ::-1][:, ::-1], tuple(X)):
        np.testing.assert_array_equal(estimator.transform(other), found)


def test_features_are_hidden_states_bit_for_bit():
    # Nothing is standardised here, so the inputs are the very same.
    X = ragged(3)
    estimator = fit(transformer(standardize=False, hidden_size=21), X)
    for states, features in zip(states_by_hand(estimator, X, 0, 1), estimator.transform(X), strict=True):
        np.testing.assert_array_equal(features, states[-1])


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_features_do_not_depend_on_the_others(pooling):
    X = [sequences(1, 23, 3, seed=n)[0, : 1 + 7 * n % 23] for n in range(40)]
    estimator = fit(transformer(pooling=pooling, hidden_size=9), X)
    found = estimator.transform(X)
    for chosen in ([0], [39, 3], list(range(39, -1, -1)), [7] * 5):
        np.testing.assert_array_equal(estimator.transform([X[n] for n in chosen]), found[chosen])
    np.testing.assert_array_equal(estimator.transform(X * 20), np.tile(found, (20, 1)))


def test_names_and_output_of_features():
    pandas = pytest.importorskip("pandas")
    estimator = fit(transformer(), sequences())
    assert estimator.get_feature_names_out().tolist() == [f"lstmtransformer{k}" for k in range(4)]
    frame = estimator.set_output(transform="pandas").transform(sequences())
    assert isinstance(frame, pandas.DataFrame) and frame.shape == (12, 4)
    assert list(frame.columns) == estimator.get_feature_names_out().tolist()


# Both.


@pytest.mark.parametrize("kind", [transformer, detector])
def test_y_is_ignored(kind):
    X = sequences()
    plain = fit(kind(), X)
    for y in (np.arange(12), ["junk"], np.full(5, np.nan)):
        other = fit(kind(), X, y=y)
        for name, p in plain.parameters_.items():
            np.testing.assert_array_equal(p, other.parameters_[name])


@pytest.mark.parametrize("kind", [transformer, detector])
def test_life_of_an_estimator(kind, tmp_path):
    X = ragged()
    names = ["transform"] if kind is transformer else ["score_samples", "decision_function", "predict", "score_steps",
                                                       "predict_steps"]  # fmt: skip
    for name in [*names, "save"]:
        with pytest.raises(NotFittedError):
            getattr(kind(), name)(X)
    for array in X:
        array.flags.writeable = False  # writing to them would raise
    estimator = fit(kind(max_iter=4, window=5), X)
    estimator.save(tmp_path / "model")
    others = [pickle.loads(pickle.dumps(estimator)), lstmx.load(tmp_path / "model"), fit(clone(estimator), X)]
    for name in names:
        wanted = getattr(estimator, name)(X)
        for other in others:
            for a, b in zip(getattr(other, name)(X), wanted, strict=True):
                np.testing.assert_array_equal(a, b)
    warm = fit(kind(max_iter=4, window=5, warm_start=True, tol=0), X)
    assert len(fit(warm, X).loss_curve_) == 8
    with pytest.raises(ValueError, match="feature"):
        getattr(estimator, names[0])([a[:, :1] for a in X])


def test_a_threshold_set_after_fit_is_as_it_was():
    X = sequences(30)
    estimator = fit(detector(contamination=0.3), X)
    before = estimator.predict(X)
    estimator.set_params(contamination=0.01, aggregate="max")
    np.testing.assert_array_equal(estimator.predict(X), before)


def test_a_warm_start_sees_new_parameters_of_the_measure():
    X = sequences(40)
    estimator = fit(detector(contamination=0.1, warm_start=True), X)
    fit(estimator.set_params(contamination=0.5, aggregate="max"), X)
    assert abs((estimator.predict(X) == -1).mean() - 0.5) <= 1 / 40
    np.testing.assert_array_equal(estimator.score_samples(X), estimator.score_steps(X).min(axis=1))
    pooled = fit(transformer(warm_start=True), X)
    fit(pooled.set_params(pooling="mean"), X)
    states = states_by_hand(pooled, X, *moments(X))
    np.testing.assert_allclose(pooled.transform(X), np.mean(states, axis=1), **STANDARDISED["float64"])


@pytest.mark.parametrize("kind", [detector, transformer])
def test_trace_shows_what_the_network_did_when_it_predicted(kind):
    X = ragged()
    estimator = fit(kind(standardize=False), X)
    trace = estimator.trace(X)[0]
    for f, x in zip(trace.f[0, 0], X, strict=True):
        late = np.concatenate([np.zeros((1, x.shape[1])), x[:-1]])
        np.testing.assert_array_equal(f, estimator.model_.trace(late[None])[0].f[0, 0][0])
