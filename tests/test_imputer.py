"""SequenceImputer in every form and before every estimator, and the detector on gaps."""

import pickle
import warnings

import numpy as np
import pytest
from test_missing import LINE, NAN, filled_by_loops

import lstmx
from lstmx.data import missing, panel

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lstmx import (
    LSTMAnomalyDetector,
    LSTMClassifier,
    LSTMRegressor,
    LSTMTransformer,
    SequenceImputer,
    SequenceScaler,
)


def sequences(features=2, count=12, steps=9, seed=0, share=0.2):
    """(n, T, F) with gaps; the last step is there."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, steps, features)).cumsum(axis=1) * 10.0 ** np.arange(features)
    x[rng.random(x.shape) < share] = NAN
    x[:, -1] = 1
    return x


def padded(x):
    """Every third sequence is two steps shorter; at its last step something is there."""
    x = x.copy()
    x[::3, -3] = 1
    x[::3, -2:] = NAN
    return x


def as_list(x):
    return [a[: panel.read(a[None], gaps=True).lengths[0]] for a in x]


# name -> (X, its sequences (T_i, F), the layout)
FORMS = {
    "array": lambda: (sequences(), list(sequences()), "NTC"),
    "padded": lambda: (padded(sequences()), as_list(padded(sequences())), "NTC"),
    "list": lambda: (as_list(padded(sequences())), as_list(padded(sequences())), "NTC"),
    "table": lambda: (padded(sequences(1))[:, :, 0], as_list(padded(sequences(1))), "NTC"),
    "flat list": lambda: ([a[:, 0] for a in sequences(1)], list(sequences(1)), "NTC"),
    "channels first": lambda: (padded(sequences()).swapaxes(1, 2), as_list(padded(sequences())), "NCT"),
    "list channels first": lambda: ([a.T for a in sequences()], list(sequences()), "NCT"),
    "float32": lambda: (np.float32(sequences()), list(np.float32(sequences())), "NTC"),
}


@pytest.mark.parametrize("add_indicator", [False, True])
@pytest.mark.parametrize("strategy", missing.STRATEGIES)
@pytest.mark.parametrize("form", FORMS)
def test_imputing_in_every_form(form, strategy, add_indicator):
    X, arrays, layout = FORMS[form]()
    imputer = SequenceImputer(strategy, fill_value=-2, add_indicator=add_indicator, layout=layout)
    found = imputer.fit_transform(X)
    mean = np.nanmean(np.concatenate(arrays), axis=0, dtype=np.float64)
    values = np.full_like(mean, -2) if strategy == "constant" else mean
    np.testing.assert_allclose(imputer.statistics_, values, rtol=1e-13)
    assert type(found) is type(X) and len(found) == len(X)
    for a, x, given_ in zip(found, arrays, X, strict=True):
        assert a.dtype == x.dtype
        a = a.T if layout == "NCT" else a.reshape(len(a), -1)
        wanted = filled_by_loops(x, strategy, values)
        tolerance = LINE[x.dtype.name]["rtol"]
        size = np.abs(wanted).max()
        features = x.shape[1]
        np.testing.assert_allclose(a[: len(x), :features], wanted, rtol=tolerance, atol=2 * tolerance * size)
        assert np.isnan(a[len(x) :]).all()  # padding stays
        assert a.shape[1] == features * (1 + add_indicator)
        if add_indicator:
            np.testing.assert_array_equal(a[: len(x), features:], np.isnan(x))
        else:
            assert a.size == given_.size


def test_what_is_filled_depends_on_nothing_but_its_sequence_and_the_training_data():
    X = sequences()
    imputer = SequenceImputer("forward").fit(X[:6])
    np.testing.assert_allclose(imputer.statistics_, np.nanmean(X[:6], axis=(0, 1)), rtol=1e-13)
    whole = imputer.transform(X)
    for n in range(len(X)):
        assert imputer.transform(X[n : n + 1]).tobytes() == imputer.transform([X[n]])[0].tobytes() == whole[n].tobytes()
    lacking = np.full((1, 3, 2), NAN)
    lacking[:, :, 0] = 4
    for strategy in ("forward", "linear", "mean"):
        filled = SequenceImputer(strategy).fit(X).transform(lacking)[0, :, 1]
        np.testing.assert_allclose(filled, np.nanmean(X[:, :, 1]), rtol=1e-13)


def test_a_form_does_not_change_the_bits():
    x = padded(sequences())
    one, other = SequenceImputer("mean").fit(x), SequenceImputer("mean").fit(as_list(x))
    assert one.statistics_.tobytes() == other.statistics_.tobytes()
    for a, b in zip(one.transform(x), other.transform(as_list(x)), strict=True):
        assert a[: len(b)].tobytes() == b.tobytes()


def test_indicators_are_of_the_features_that_lacked_values_in_training():
    X = sequences(3, share=0)
    X[2, 1, 2] = X[3, 4, 0] = NAN
    imputer = SequenceImputer(add_indicator=True).fit(X)
    assert imputer.indicator_features_.tolist() == [0, 2]
    names = ["x0", "x1", "x2", "missingindicator_x0", "missingindicator_x2"]
    assert imputer.get_feature_names_out().tolist() == names
    X[5, 5, 1] = NAN  # as SimpleImputer, it adds no feature later
    found = imputer.transform(X)
    assert found.shape == (12, 9, 5) and found[2, 1, 4] == found[3, 4, 3] == 1 and found[:, :, 3:].sum() == 2
    assert SequenceImputer(add_indicator=True).fit(np.ones((2, 3, 3))).transform(X).shape == X.shape
    flat = SequenceImputer(add_indicator=True).fit(X[:, :, 0])
    assert flat.transform(X[:, :, 0]).shape == (12, 9, 2)
    assert flat.get_feature_names_out().tolist() == ["x0", "missingindicator_x0"]


def test_frames():
    pandas = pytest.importorskip("pandas")
    X = padded(sequences(1))[:, :, 0]
    names = [f"t{k}" for k in range(X.shape[1])]
    want = SequenceImputer().fit_transform(X)
    for frame in (pandas.DataFrame(X, columns=names), pandas.DataFrame(X, columns=names).astype("Float64")):
        imputer = SequenceImputer().fit(frame)
        np.testing.assert_array_equal(imputer.transform(frame), want)
        assert imputer.get_feature_names_out().tolist() == names
    table = imputer.set_output(transform="pandas").transform(frame)
    np.testing.assert_array_equal(table.to_numpy(), want)
    frames = [pandas.DataFrame(a, columns=["u", "v"]) for a in sequences()]
    for a, b in zip(SequenceImputer().fit_transform(frames), SequenceImputer().fit_transform(sequences()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_feature_that_training_never_had_becomes_0_with_a_warning():
    X = sequences()
    X[:, :, 1] = NAN
    with pytest.warns(UserWarning, match=r"^X: feature 1 has no values in training, only NaN, and becomes 0") as caught:
        found = SequenceImputer().fit_transform(X)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert (found[:, :, 1] == 0).all()
    with pytest.raises(ValueError, match=r"^X: the values of feature 0 are too large to average"):
        SequenceImputer().fit(np.full((2, 3, 1), 1e308))


@pytest.mark.parametrize(
    ("name", "value"), [("strategy", "median"), ("strategy", None), ("fill_value", NAN), ("fill_value", "a"),
                        ("add_indicator", 1), ("layout", "TNC")],
)  # fmt: skip
def test_parameters(name, value):
    with pytest.raises((ValueError, TypeError), match=f"^{name}:"):
        SequenceImputer(**{name: value}).fit(sequences())


def test_life():
    with pytest.raises(NotFittedError):
        SequenceImputer().transform(sequences())
    imputer = SequenceImputer("forward", add_indicator=True).fit(sequences(), y="ignored")
    copy = pickle.loads(pickle.dumps(imputer))
    np.testing.assert_array_equal(copy.transform(sequences()), imputer.transform(sequences()))
    assert clone(imputer).get_params() == imputer.get_params()
    with pytest.raises(ValueError, match=r"^X: got 3 features .* fitted with 2"):
        imputer.transform(sequences(3))
    before = sequences()
    imputer.transform(before)
    assert before.tobytes() == sequences().tobytes()


QUICK = {"hidden_size": 4, "max_iter": 2, "random_state": 0}


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("form", ["array", "padded", "list", "table"])
def test_before_any_of_the_estimators(form):
    X = FORMS[form]()[0]
    y = np.arange(12) % 2
    for estimator in (LSTMClassifier(**QUICK), LSTMRegressor(**QUICK), LSTMTransformer(**QUICK),
                      LSTMAnomalyDetector(**QUICK), SequenceScaler()):  # fmt: skip
        pipe = make_pipeline(SequenceImputer(add_indicator=True), estimator).fit(X, y)
        method = pipe.predict if hasattr(estimator, "predict") else pipe.transform
        for found in method(X):
            assert np.isfinite(found[: len(found) - 2] if np.ndim(found) > 1 else found).all()
        alone = clone(estimator)
        with pytest.raises(ValueError, match=r"contains NaN inside .* Fill it with lstmx\.SequenceImputer"):
            alone.fit(X, y)
    assert np.isfinite(cross_val_score(make_pipeline(SequenceImputer(), LSTMClassifier(**QUICK)), X, y, cv=2)).all()


def test_scikit_learns_own_refuse_sequences():
    """Which is why there are ours, as their pages say."""
    for peer, ours in ((SimpleImputer(), SequenceImputer), (StandardScaler(), SequenceScaler)):
        for X in (sequences(), as_list(padded(sequences()))):
            with pytest.raises(ValueError):
                peer.fit(X)
        assert "refuse" in ours.__doc__ and "3-D" in ours.__doc__


# The detector.


def detector(**parameters):
    return LSTMAnomalyDetector(**QUICK | {"missing": "impute"} | parameters)


def fit(estimator, X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(X)


@pytest.mark.parametrize("form", ["padded", "list", "table", "channels first"])
def test_the_detector_scores_what_is_there(form, tmp_path):
    X, arrays, layout = FORMS[form]()
    estimator = fit(detector(layout=layout), X)
    steps = estimator.score_steps(X)
    errors = estimator._predictor.errors(estimator._predictor.read(X))
    for found, x, e in zip(steps, arrays, errors, strict=True):
        assert np.isfinite(found[: len(x)]).all()
        for t, row in enumerate(x):
            there = np.flatnonzero(~np.isnan(row))
            d = e[t, there] - estimator.location_[there]
            precision = np.linalg.inv(estimator.covariance_[np.ix_(there, there)])
            np.testing.assert_allclose(found[t], -(d @ precision @ d), rtol=1e-7, atol=1e-9)
            if not len(there):
                assert found[t] == 0
    wanted = [s[: len(x)][~np.isnan(x).all(axis=1)].mean() for s, x in zip(steps, arrays, strict=True)]
    np.testing.assert_allclose(estimator.score_samples(X), wanted, rtol=1e-12)
    estimator.save(tmp_path / "detector.safetensors")
    loaded = lstmx.load(tmp_path / "detector.safetensors")
    for model in (loaded, pickle.loads(pickle.dumps(estimator)), pickle.loads(pickle.dumps(loaded))):
        for one, other in zip(model.score_steps(X), steps, strict=True):
            assert one.tobytes() == other.tobytes()
        assert model.predict(X).tobytes() == estimator.predict(X).tobytes()
    for n in (0, 5):  # the same bits alone
        assert estimator.score_samples(X[n : n + 1])[0] == estimator.score_samples(X)[n]


def test_the_detector_fills_as_the_imputer_and_learns_from_the_training_part_alone():
    X = sequences(count=20)
    X[3, :, 1] = NAN  # has to be learnt
    estimator = fit(detector(early_stopping=True, validation_fraction=0.25), X)
    imputer = SequenceImputer().fit(X[:15])
    assert estimator._predictor.arrays["x_fill"].tobytes() == imputer.statistics_.tobytes()
    filled = imputer.transform(X)
    rows = filled[:15].reshape(-1, 2)
    np.testing.assert_allclose(estimator._predictor.arrays["x_mean"], rows.mean(axis=0), rtol=1e-12)
    plain = fit(detector(early_stopping=True, validation_fraction=0.25, missing="error"), filled)
    # The means that the plain one standardises by are the same, and so is the network.
    for name, p in estimator.parameters_.items():
        assert p.tobytes() == plain.parameters_[name].tobytes()


def test_windows_of_a_series_with_gaps():
    rng = np.random.default_rng(0)
    series = np.sin(np.arange(400) / 4) + 0.02 * rng.normal(size=400)
    spoilt = series.copy()
    spoilt[200] += 2
    spoilt[50:53] = spoilt[300] = NAN
    X = spoilt[None, :, None]
    estimator = detector(hidden_size=8, window=40, max_iter=15, tol=0, learning_rate_init=0.02, early_stopping=True)
    estimator = fit(estimator, X)
    scores = estimator.score_steps(X)[0]
    assert scores.argmin() == 200 and (scores[50:53] == 0).all() and (scores[[49, 53]] < 0).all()
    assert estimator.predict_steps(X)[0, [50, 200]].tolist() == [1, -1]
    seen = spoilt[: 40 * 9]  # 9 of 10 windows
    np.testing.assert_allclose(estimator._predictor.arrays["x_fill"], np.nanmean(seen), rtol=1e-10)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_missing_may_change_in_a_warm_start():
    whole, X = SequenceImputer().fit_transform(sequences()), sequences()
    estimator = detector(missing="error", warm_start=True).fit(whole)
    assert "missing" not in estimator._predictor.state()[0] and "x_fill" not in estimator._predictor.arrays
    estimator.set_params(missing="impute").fit(X)
    assert np.isfinite(estimator.score_samples(X)).all()
    assert estimator._predictor.state()[0]["missing"] == "impute"
    estimator.set_params(missing="error").fit(whole)
    with pytest.raises(ValueError, match="contains NaN inside"):
        estimator.predict(X)
    with pytest.raises(ValueError, match=r"^missing: got 'drop', must be one of 'error', 'impute'$"):
        detector(missing="drop").fit(X)


def test_gaps_that_leave_no_step_whole():
    X = sequences(share=0)
    X[:, ::2, 0] = X[:, 1::2, 1] = NAN
    estimator = fit(detector(), X)
    assert np.isfinite(estimator.covariance_).all() and np.isfinite(estimator.score_steps(X)).all()
    assert 0 < (estimator.predict_steps(X) == -1).mean() < 0.2


def test_without_gaps_imputing_changes_nothing():
    X = sequences(share=0)
    one, other = fit(detector(), X), fit(detector(missing="error"), X)
    assert one.score_steps(X).tobytes() == other.score_steps(X).tobytes()
    assert one.predict(X).tobytes() == other.predict(X).tobytes()
