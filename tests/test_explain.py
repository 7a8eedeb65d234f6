"""`lstmx.inspect.explain`: what decided, by name, of every kind of estimator.

Tolerances. COMPLETE: float64 integrals of smooth functions. FLOAT32: those of models in float32.
"""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import lstmx
from lstmx import LSTMAnomalyDetector, LSTMClassifier, LSTMForecaster, LSTMRegressor, LSTMTransformer, SequenceScaler
from lstmx.inspect import Explanation, explain

COMPLETE = {"rtol": 0, "atol": 1e-6}
QUICK = {"max_iter": 5, "tol": 1e9, "n_iter_no_change": 1, "random_state": 0}


def data(n=12, steps=6, features=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, steps, features))


def classifier(classes=2, **options):
    X = data()
    y = np.array(["a", "b", "c"])[np.arange(12) % classes]
    return LSTMClassifier(4, **(QUICK | options)).fit(X, y), X


def regressor(outputs=1, **options):
    X = data()
    y = 5 + 3 * X.sum(axis=1)[:, :outputs]
    return LSTMRegressor(4, **(QUICK | options)).fit(X, y[:, 0] if outputs == 1 else y), X


# Classifiers


def test_a_class_is_explained_by_its_log_odds():
    clf, X = classifier()
    found, p = explain(clf, X), clf.predict_proba(X)
    assert isinstance(found, Explanation) and found.values.shape == X.shape
    np.testing.assert_allclose(found.output, np.log(p.max(axis=1) / p.min(axis=1)), rtol=1e-6)
    np.testing.assert_allclose(found.completeness, 0, **COMPLETE)
    np.testing.assert_allclose(found.values.sum(axis=(1, 2)), found.output - found.baseline_output, **COMPLETE)
    assert [s.split("'")[1] for s in found.subject] == clf.predict(X).tolist() and "log odds" in found.subject[0]
    second = explain(clf, X, output=1)
    signs = np.where(clf.predict(X) == "b", 1, -1)
    np.testing.assert_allclose(second.values, found.values * signs[:, None, None], **COMPLETE)


def test_one_of_several_classes_is_explained_beside_the_others():
    clf, X = classifier(3)
    found, z = explain(clf, X), np.log(clf.predict_proba(X))
    k = z.argmax(axis=1)
    rest = (z.sum(axis=1) - z.max(axis=1)) / 2
    np.testing.assert_allclose(found.output, z.max(axis=1) - rest, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.completeness, 0, **COMPLETE)
    assert [s.split("'")[1] for s in found.subject] == clf.classes_[k].tolist()
    second = explain(clf, X, output=2)
    np.testing.assert_allclose(second.output, z[:, 2] - z[:, :2].mean(axis=1), rtol=1e-5, atol=1e-7)


def test_a_label_of_several_is_explained_alone():
    X = data()
    clf = LSTMClassifier(4, **QUICK).fit(X, (X[:, 0] > 0).astype(int))
    found, p = explain(clf, X, output=1), clf.predict_proba(X)[:, 1]
    np.testing.assert_allclose(found.output, np.log(p / (1 - p)), rtol=1e-6)
    assert found.subject[0].startswith("label 1")


@pytest.mark.parametrize("method", ["gradient_x_input", "occlusion"])
def test_other_methods_are_honest_about_what_they_leave(method):
    clf, X = classifier()
    found = explain(clf, X, method=method)
    left = found.values.sum(axis=(1, 2)) - (found.output - found.baseline_output)
    np.testing.assert_allclose(found.completeness, left, rtol=1e-9)
    assert found.method == method


def test_a_class_is_given_by_its_label():
    clf, X = classifier(3)
    np.testing.assert_array_equal(explain(clf, X, output="b").values, explain(clf, X, output=1).values)
    numbers = LSTMClassifier(4, **QUICK).fit(X, np.arange(12) % 2 + 1)
    assert explain(numbers, X, output=1).subject[0] == "class 2, as log odds"  # integers count from 0


@pytest.mark.parametrize(("standardize", "words"), [(True, "of an average input"), (False, "of an input of zeros")])
def test_the_baseline_is_called_what_it_is(standardize, words):
    clf, X = classifier(standardize=standardize)
    found = explain(clf, X + 5)
    assert words in str(found) and words.endswith(found.baseline)
    zeros = clf.predict_proba(np.zeros_like(X))[0]
    if not standardize:
        np.testing.assert_allclose(np.abs(found.baseline_output), np.abs(np.log(zeros[1] / zeros[0])), **COMPLETE)


def test_what_is_unexplained_is_shown():
    clf, X = classifier()
    rough = explain(clf, 9 * X, method="gradient_x_input")
    assert rough.unexplained[0] > 0.01 and "unexplained " in str(rough)
    assert "unexplained" not in str(explain(clf, X, tolerance=1e-6))


def test_a_sequence_without_the_step_has_no_causes():
    X = data()
    clf = LSTMClassifier(4, target="step", **QUICK).fit(X, X[:, :, 0] > 0)
    found = explain(clf, [X[0], X[1, :2]], step=4)
    assert np.isnan(found.output[1]) and found.subject[1] == "has no step 4"
    assert str(found).endswith("sequence 1: has no step 4") and {c.sequence for c in found.top()} == {0}
    assert found.decisive_steps[1] == found.decisive_columns[1] == -1 and found.decisive_steps[0] >= 0
    np.testing.assert_allclose(found.column_weights(), np.abs(found.shares[0]).sum(axis=0))


def test_one_feature_without_a_name_is_not_named():
    X = data(features=1)
    found = explain(LSTMRegressor(4, **QUICK).fit(X, X.sum(axis=(1, 2))), X)
    first = str(found).splitlines()[1]
    assert first.split("  ")[-1].startswith("step ") and "feature 0" not in first


def test_a_sequence_that_is_not_there_says_so():
    reg, X = regressor()
    with pytest.raises(IndexError, match=r"^sequence: got 100, there are 12 sequences, from 0"):
        explain(reg, X).top(2, 100)


# Regressors


@pytest.mark.parametrize("standardize", [True, False])
def test_a_target_is_explained_in_its_unit(standardize):
    reg, X = regressor(standardize=standardize)
    found = explain(reg, X)
    np.testing.assert_allclose(found.output, reg.predict(X), rtol=1e-6)
    base = reg.predict(np.broadcast_to(X.mean(axis=(0, 1)) if standardize else 0, X.shape))
    np.testing.assert_allclose(found.baseline_output, base, rtol=1e-5)
    np.testing.assert_allclose(found.completeness, 0, **COMPLETE)


def test_one_of_several_targets_must_be_named():
    reg, X = regressor(2)
    with pytest.raises(ValueError, match=r"^output: must be one of the 2 targets"):
        explain(reg, X)
    found = explain(reg, X, output=1)
    np.testing.assert_allclose(found.output, reg.predict(X)[:, 1], rtol=1e-6)
    assert found.subject[0] == "target 1"


def test_a_step_is_explained_where_each_has_a_target():
    X = data()
    reg = LSTMRegressor(4, target="step", **QUICK).fit(X, X.sum(axis=2))
    np.testing.assert_allclose(explain(reg, X).output, reg.predict(X)[:, -1], rtol=1e-5, atol=1e-6)
    found = explain(reg, X, step=2)
    np.testing.assert_allclose(found.output, reg.predict(X)[:, 2], rtol=1e-5, atol=1e-6)
    assert (found.values[:, 3:] == 0).all()


# Forms of X, and names


def test_values_come_in_the_form_of_the_input():
    reg, X = regressor()
    ragged = [X[0], X[1, :3], X[2, :1]]
    padded = np.full((3, 6, 2), np.nan)
    for row, x in zip(padded, ragged, strict=True):
        row[: len(x)] = x
    found, other = explain(reg, ragged), explain(reg, padded)
    assert [a.shape for a in found.values] == [(6, 2), (3, 2), (1, 2)]
    np.testing.assert_array_equal(np.isnan(other.values), np.isnan(padded))
    for n, x in enumerate(ragged):
        np.testing.assert_allclose(other.values[n, : len(x)], found.values[n], **COMPLETE)
        np.testing.assert_array_equal(found.shares[n], found.values[n])
    swapped = LSTMRegressor(4, layout="NCT", **QUICK).fit(X.swapaxes(1, 2), X.sum(axis=(1, 2)))
    assert explain(swapped, X.swapaxes(1, 2)).values.shape == (12, 2, 6)


def test_frames_name_steps_and_features():
    pd = pytest.importorskip("pandas")
    X = data(12, 5, 1)[:, :, 0]
    table = pd.DataFrame(X, columns=list("vwxyz"))
    reg = LSTMRegressor(4, **QUICK).fit(table, X.sum(axis=1))
    found = explain(reg, table)
    assert found.values.shape == (12, 5) and found.step_names == list("vwxyz")
    assert found.column_names == ["feature 0"] and found.top(1, 3)[0].step_name in "vwxyz"
    many = [pd.DataFrame(x, columns=["wind", "rain"]) for x in data()]
    reg, _ = regressor()
    assert explain(reg, many).column_names == ["wind", "rain"]
    assert explain(reg, many, feature_names=["a", "b"]).column_names == ["a", "b"]


def test_the_largest_come_first():
    reg, X = regressor()
    found = explain(reg, X)
    causes = found.top(4, 2)
    sizes = np.sort(np.abs(found.values[2]), axis=None)[::-1]
    np.testing.assert_array_equal([abs(c.share) for c in causes], sizes[:4])
    assert all(found.values[c.sequence, c.step, c.column] == c.share for c in causes)
    assert len(found.top(3)) == 36 and [c.sequence for c in found.top(1)] == list(range(12))
    assert found.top(1, -1)[0].sequence == 11
    n = 5
    assert found.decisive_steps[n] == np.abs(found.values[n]).sum(axis=1).argmax()
    assert found.decisive_columns[n] == np.abs(found.values[n, found.decisive_steps[n]]).argmax()
    np.testing.assert_allclose(found.column_weights(), np.abs(found.values).sum(axis=1).mean(axis=0))


def test_it_is_readable():
    reg, X = regressor()
    text = str(explain(reg, X, feature_names=["wind", "rain"]))
    assert text.startswith("sequence 0: the target: ") and "wind at step " in text and text.endswith(".. and 2 more")
    assert "12 sequences by integrated_gradients" in repr(explain(reg, X))


# What stands around an estimator


def test_a_pipeline_a_search_and_a_file_are_explained_by_what_they_hold(path):
    X = data()
    y = X.sum(axis=(1, 2))
    pipeline = make_pipeline(SequenceScaler(), "passthrough", LSTMRegressor(4, **QUICK)).fit(X, y)
    found = explain(pipeline, X)
    np.testing.assert_allclose(found.output, pipeline.predict(X), rtol=1e-6)
    lstmx.save(pipeline, path)
    np.testing.assert_array_equal(explain(lstmx.load(path), X).values, found.values)
    search = GridSearchCV(LSTMRegressor(4, **QUICK), {"hidden_size": [3]}, cv=2).fit(X, y)
    np.testing.assert_allclose(explain(search, X).output, search.predict(X), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "X", "options", "error", "message"),
    [
        (lambda: classifier()[0], None, {}, ValueError, r"^X: must be the sequences"),
        (
            lambda: classifier()[0],
            data(),
            {"output": 2},
            ValueError,
            r"^output: got 2, .* there are 2 classes: 'a', 'b'",
        ),
        (lambda: classifier()[0], data(), {"output": -1}, ValueError, r"^output: got -1"),
        (lambda: classifier()[0], data(), {"output": "dog"}, ValueError, r"^output: got 'dog', .* 2 classes: 'a', 'b'"),
        (lambda: classifier()[0], data(), {"step": 1.5}, TypeError, r"^step: got 1.5, must be an integer"),
        (lambda: classifier()[0], data(), {"step": 1}, ValueError, r"^step: .*fit with target=\"step\""),
        (lambda: regressor()[0], data(), {"output": 1}, ValueError, r"^output: got 1, the model has 1 output, from 0"),
        (lambda: regressor()[0], data(), {"method": "lime"}, ValueError, r"^method: got 'lime'"),
        (lambda: regressor()[0], data(), {"feature_names": ["a"]}, ValueError, r"^feature_names: got 1, must be 2"),
        (lambda: regressor()[0], data(features=3), {}, ValueError, r"^X: got 3 features"),
        (lambda: LSTMTransformer(4, **QUICK).fit(data()), data(), {}, TypeError, r"^estimator: got LSTMTransformer"),
        (lambda: 3, data(), {}, TypeError, r"^estimator: got int"),
        (LSTMClassifier, data(), {}, NotFittedError, "not fitted"),
        (
            lambda: LSTMAnomalyDetector(4, **QUICK).fit(data()),
            data(),
            {"step": 1},
            ValueError,
            r"^output, step: an ano",
        ),
    ],
)
def test_what_cannot_be_explained_says_why(make, X, options, error, message):
    with pytest.raises(error, match=message):
        explain(make(), X, **options)


# Anomalies


@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_an_anomaly_is_the_distance_of_each_column(aggregate):
    X = data(8, 9, 3)
    detector = LSTMAnomalyDetector(4, aggregate=aggregate, **QUICK).fit(X)
    found = explain(detector, X)
    np.testing.assert_allclose(found.values.sum(axis=2), -detector.score_steps(X), rtol=1e-9)
    np.testing.assert_allclose(found.output, -detector.score_samples(X), rtol=1e-9)
    np.testing.assert_allclose(found.completeness, 0, **COMPLETE)
    assert "average" not in str(found) and "(" not in str(found).splitlines()[0]
    assert found.method == "distance" and "squared distance" in found.subject[0]


def test_missing_values_have_no_part_in_an_anomaly():
    X = data(8, 9, 3)
    detector = LSTMAnomalyDetector(4, missing="impute", **QUICK).fit(X)
    X[2, 4, 1] = X[3, 5] = np.nan
    found = explain(detector, X)
    assert found.values[2, 4, 1] == 0 and (found.values[3, 5] == 0).all() and found.values[2, 4, 0] != 0
    np.testing.assert_allclose(found.values.sum(axis=2), -detector.score_steps(X), rtol=1e-9)


# Forecasters


def series(n=160, variables=1, seed=0):
    y = np.random.default_rng(seed).normal(size=(n, variables)).cumsum(axis=0)
    return y[:, 0] if variables == 1 else y


@pytest.mark.parametrize("variables", [1, 2])
def test_a_forecast_is_explained_in_the_unit_of_y(variables):
    y = series(variables=variables)
    forecaster = LSTMForecaster(8, 3, differences=(), hidden_size=4, **QUICK).fit(y)
    wanted = np.asarray(forecaster.predict()).reshape(3, variables)
    for step in range(3):
        found = explain(forecaster, step=step, output=variables - 1)
        assert found.values.shape == (1, 8, variables)
        np.testing.assert_allclose(found.output, wanted[step, -1:], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.completeness, 0, atol=1e-5)
    assert found.step_names == [f"lag {k}" for k in range(8, 0, -1)] and "in 3 steps" in found.subject[0]
    assert found.column_names == (["y"] if variables == 1 else ["y[0]", "y[1]"])


def test_differences_are_explained_as_differences():
    y = series()
    forecaster = LSTMForecaster(8, 1, hidden_size=4, **QUICK).fit(y)
    found = explain(forecaster)
    np.testing.assert_allclose(found.output, forecaster.predict() - y[-1], rtol=1e-5, atol=1e-6)
    assert found.column_names == ["y (differences (1,))"]
    assert found.subject == ["change of y from the step before in 1 step"]


def test_exogenous_variables_are_explained_by_the_step_that_they_are_of():
    pd = pytest.importorskip("pandas")
    y, X = series(), pd.DataFrame(data(1, 160)[0], columns=["wind", "rain"])
    forecaster = LSTMForecaster(8, 2, hidden_size=4, **QUICK).fit(y, X)
    future = pd.DataFrame(data(1, 2, seed=1)[0], columns=["wind", "rain"])
    found = explain(forecaster, future)
    ahead = ["wind, 1 ahead", "rain, 1 ahead", "wind, 2 ahead", "rain, 2 ahead"]
    assert found.column_names == ["y (differences (1,))", *ahead] and found.values.shape == (1, 8, 5)
    later = {(c.step, c.column): (c.step_name, c.column_name) for c in found.top(40)}
    assert later[4, 1] == ("lag 3", "wind") and later[7, 2] == ("step 0 of the forecast", "rain")
    assert later[7, 3] == ("step 1 of the forecast", "wind") and later[7, 0] == ("lag 1", "y (differences (1,))")
    with pytest.raises(ValueError, match=r"^X: must be the exogenous variables of the next 1 step, \(1, 2\)"):
        explain(forecaster)
    named = explain(forecaster, future, feature_names=["sales", "w", "r"])
    assert named.column_names[0] == "sales" and named.column_names[-1] == "r, 2 ahead"


def test_several_series_have_an_explanation_each():
    forecaster = LSTMForecaster(8, 2, hidden_size=4, **QUICK).fit([series(seed=k) for k in range(3)])
    found = explain(forecaster)
    assert found.values.shape == (3, 8, 1) and len(found.subject) == 3
    wanted = [p[0] - series(seed=k)[-1] for k, p in enumerate(forecaster.predict())]
    np.testing.assert_allclose(found.output, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fit", "options", "message"),
    [
        ({"strategy": "recursive"}, {"step": 1}, r"^step: got 1, the network gives 1 step of the forecast, from 0"),
        ({}, {"step": 2}, r"^step: got 2, the network gives 2 steps of the forecast"),
        ({}, {"output": 1}, r"^output: got 1, y has 1 variable, from 0"),
        ({}, {"feature_names": ["a", "b"]}, r"^feature_names: got 2, must be 1: of y, then of X"),
        ({}, {"X": np.zeros((2, 1))}, r"^X: got exogenous variables, but the model was fitted without"),
    ],
)
def test_what_a_forecaster_cannot_explain_says_why(fit, options, message):
    forecaster = LSTMForecaster(8, 2, hidden_size=4, **(QUICK | fit)).fit(series())
    with pytest.raises(ValueError, match=message):
        explain(forecaster, **options)


# What was planted


@pytest.mark.long
def test_the_lag_of_an_echo_is_found():
    """Shocks, each of which comes back three steps later; 100 windows that such an echo follows."""
    rng = np.random.default_rng(0)
    shocks = np.where(rng.random(6000) < 0.08, rng.choice([-3.0, 3.0], 6000), 0)
    y = 0.3 * rng.normal(size=6000) + shocks
    y[3:] -= 0.7 * shocks[:-3]
    forecaster = LSTMForecaster(8, 1, differences=(), hidden_size=24, learning_rate_init=0.01, random_state=0)
    forecaster.fit(y[:4000])
    found = []
    for t in range(4000, 6000):
        if shocks[t - 3]:
            one = explain(forecaster)
            found.append(one.step_names[one.decisive_steps[0]])
        if len(found) == 100:
            break
        forecaster.update(y[t : t + 1])
    assert len(found) == 100 and found.count("lag 3") >= 95


@pytest.mark.long
def test_the_step_and_column_of_an_anomaly_are_found():
    rng = np.random.default_rng(0)

    def normal(n):
        phase = rng.uniform(0, 6, size=(n, 1))
        angle = np.arange(40) / 3 + phase
        return np.stack([np.sin(angle), np.cos(angle), np.sin(2 * angle)], axis=2) + 0.05 * rng.normal(size=(n, 40, 3))

    detector = LSTMAnomalyDetector(24, random_state=0, max_iter=40, tol=1e-3, n_iter_no_change=3).fit(normal(200))
    X = normal(100)
    at, column = rng.integers(3, 40, size=100), rng.integers(3, size=100)
    X[np.arange(100), at, column] += rng.choice([-1, 1], size=100) * 2.0
    found = explain(detector, X)
    first = [next(iter(found.top(1, n))) for n in range(100)]
    hits = sum(c.step == t and c.column == k for c, t, k in zip(first, at, column, strict=True))
    assert hits >= 95


@pytest.mark.long
def test_the_step_and_column_that_decide_a_class_are_found():
    rng = np.random.default_rng(0)

    def planted(n):
        X = rng.normal(scale=0.3, size=(n, 12, 3))
        at, column, label = rng.integers(12, size=n), rng.integers(3, size=n), rng.integers(2, size=n)
        X[np.arange(n), at, column] += np.where(label, 3, -3)
        return X, np.where(label, "up", "down"), at, column

    X, y, *_ = planted(2000)
    clf = LSTMClassifier(24, pooling="mean", random_state=0, max_iter=30, tol=1e-2, n_iter_no_change=3).fit(X, y)
    X, y, at, column = planted(100)
    assert clf.score(X, y) >= 0.98
    found = explain(clf, X)
    assert ((found.decisive_steps == at) & (found.decisive_columns == column)).sum() >= 95
