"""Intervals, sample paths, scores and traces of LSTMForecaster."""

import itertools
import pickle
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")
from forecasts import Oracle, differenced, fit, generator, make, walk
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit

from lstmx import LSTMForecaster
from lstmx.predictors.intervals import bounds

# Intervals and paths.


def autoregression(steps, coefficient, seed, deviation=1.0):
    noise, y = generator(seed).normal(size=steps) * deviation, np.zeros(steps)
    for t in range(1, steps):
        y[t] = coefficient * y[t - 1] + noise[t]
    return y


@pytest.fixture(scope="module")
def autoregressive():
    """A forecaster of an AR(1) series, and 300 continuations: (history, what follows)."""
    y = autoregression(3000, 0.8, seed=0)
    forecaster = LSTMForecaster(window=4, horizon=3, hidden_size=6, max_iter=12, random_state=0, tol=0)
    fit(forecaster, y)
    fresh = autoregression(300 * 30, 0.8, seed=1).reshape(300, 30)
    return forecaster, fresh[:, :20], fresh[:, 20:]


def after(forecaster, y):
    """An independent forecaster that has seen y last."""
    return pickle.loads(pickle.dumps(forecaster)).update(y)


@pytest.mark.parametrize("method", ["residuals", "paths"])
def test_intervals_cover(autoregressive, method):
    forecaster, histories, futures = autoregressive
    inside = []
    for y, future in zip(histories, futures, strict=True):
        lower, upper = after(forecaster, y).predict_interval(
            3, coverage=0.8, method=method, **({"n_paths": 200, "random_state": 1} if method == "paths" else {})
        )
        inside.append((lower < future[:3]) & (future[:3] < upper))
    # 300 independent continuations: a deviation of sqrt(0.8 * 0.2 / 300) = 0.023; the quantiles are of some 300
    # overlapping residuals, another sqrt(0.8 * 0.2 / 100) = 0.04. Three of both together: 0.14.
    np.testing.assert_allclose(np.mean(inside, axis=0), 0.8, rtol=0, atol=0.14)


@pytest.mark.parametrize("method", ["residuals", "paths"])
def test_intervals_widen_with_coverage(autoregressive, method):
    forecaster = autoregressive[0]
    bounds = [forecaster.predict_interval(coverage=c, method=method, random_state=0) for c in (0.1, 0.5, 0.9, 0.99)]
    for (lower, upper), (wider_lower, wider_upper) in itertools.pairwise(bounds):
        assert (wider_lower < lower).all() and (upper < wider_upper).all()
        assert (lower < upper).all()


def test_paths_of_an_integrated_series_widen_like_the_root_of_the_horizon():
    y = generator(3).normal(size=1500).cumsum()
    forecaster = fit(make(horizon=1, window=3, differences=(1,), max_iter=3), y)
    paths = forecaster.sample(64, n_paths=1500, random_state=0)
    spread = paths.std(axis=0)
    # White steps: after h of them sqrt(h) as wide. 1,500 paths know a deviation to 1 / sqrt(3000) = 2 %; a network that
    # sees some structure in the noise bends it by some more.
    np.testing.assert_allclose(spread[[3, 15, 63]] / spread[0], [2, 4, 8], rtol=0.15, atol=0)
    lower, upper = forecaster.predict_interval(64, coverage=0.9, method="paths", n_paths=1500, random_state=0)
    np.testing.assert_allclose((upper - lower)[63] / (upper - lower)[0], 8, rtol=0.2, atol=0)


@pytest.mark.parametrize("lags", [(), (2, 1)], ids=str)
@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_intervals_are_order_statistics_of_the_errors_on_the_held_out_windows(strategy, early_stopping, lags):
    series = [walk(80, seed=1), walk(120, seed=2, scale=50)]
    forecaster = make(strategy=strategy, early_stopping=early_stopping, differences=lags, validation_fraction=0.3)
    fit(forecaster, series)
    oracle = Oracle(forecaster, series)
    errors = []
    for k, (train, rest) in enumerate(oracle.parts):
        for t in rest if early_stopping else train:
            if t + 3 < len(series[k]):
                y = oracle.series[k][: t + 1]
                errors.append((oracle.series[k][t + 1 : t + 4] - oracle.forecast(k, 3, y=y)) / oracle.scale[k])
    ordered, count = np.sort(errors, axis=0), len(errors)
    for coverage in (0.5, 0.9):
        # Of count + 1 exchangeable errors, the last is with probability k / (count + 1) among the k smallest.
        place = int((count + 1) * (1 - coverage) / 2)
        low, high = ordered[place - 1], ordered[-place]
        for horizon in (1, 3):
            lower, upper = forecaster.predict_interval(horizon, coverage=coverage)
            for k in range(2):
                middle = oracle.forecast(k, horizon)
                for found, error in ((lower[k], low), (upper[k], high)):
                    np.testing.assert_allclose(
                        found, (middle + oracle.scale[k] * error[:horizon])[:, 0], rtol=1e-8, atol=1e-8
                    )  # rounding of windows of order 100, differenced twice


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_a_path_adds_errors_block_by_block_and_goes_on_from_itself(strategy):
    y = walk(120)
    forecaster = fit(make(strategy=strategy, differences=(1,)), y)
    oracle = Oracle(forecaster, [y])
    errors = []  # of one block, in the units of the model
    for t in oracle.parts[0][1]:
        given = oracle.model.predict(oracle.window_of(0, oracle.series[0][: t + 1], None)[None])[0]
        errors.append(oracle.target_of(0, t) - given)
    errors = np.array(errors)
    for path in forecaster.sample(7, n_paths=20, random_state=3):
        past = oracle.series[0]
        for start in range(0, 7, oracle.block):
            given = oracle.model.predict(oracle.window_of(0, past, None)[None])[0]
            piece = path[start : start + oracle.block]
            whole = np.concatenate([past, piece[:, None]])
            z = ((differenced(whole, (1,)) - oracle.mean[0]) / oracle.scale[0])[-len(piece) :, 0]
            # The error that this path was given is, whole, one of those known.
            distance = np.abs(errors[:, : len(piece)] - (z - given[: len(piece)])).max(axis=1)
            assert distance.min() < 1e-8  # rounding of a walk of order 10
            past = whole


def test_sample_shapes_and_seeds():
    one, two = walk(70), walk(80, 2)
    forecaster = fit(make(), one)
    assert forecaster.sample().shape == (100, 3)
    assert forecaster.sample(5, n_paths=7).shape == (7, 5)
    first = forecaster.sample(5, n_paths=7, random_state=1)
    np.testing.assert_array_equal(first, forecaster.sample(5, n_paths=7, random_state=np.random.default_rng(1)))
    assert (forecaster.sample(5, n_paths=7, random_state=2) != first).any()
    assert (forecaster.sample(5, n_paths=7) != forecaster.sample(5, n_paths=7)).any()
    assert fit(make(), two).sample(4, n_paths=6).shape == (6, 4, 2)
    several = fit(make(), [two, two[:60]]).sample(4, n_paths=6)
    assert isinstance(several, list) and [a.shape for a in several] == [(6, 4, 2)] * 2
    assert fit(make(), one.astype(np.float32)).sample(2).dtype == np.float32
    x = generator().normal(size=(70, 1))
    assert fit(make(), one, x).sample(2, x[:3], n_paths=5).shape == (5, 2)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("coverage", 0, ValueError),
        ("coverage", 1.0, ValueError),
        ("coverage", "0.9", TypeError),
        ("coverage", np.nan, ValueError),
        ("method", "bootstrap", ValueError),
        ("method", None, ValueError),
        ("n_paths", 0, ValueError),
        ("n_paths", 2.5, TypeError),
        ("random_state", "a", TypeError),
        ("horizon", 0, ValueError),
        ("horizon", True, TypeError),
        ("horizon", 1.5, TypeError),
    ],
)
def test_arguments_of_intervals(name, value, error):
    forecaster = fit(make(), walk(70))
    arguments = {"method": "paths", "coverage": 0.5} | {name: value}
    with pytest.raises(error, match=rf"^{name}:"):
        forecaster.predict_interval(**arguments)
    if name == "horizon":
        for method in (forecaster.predict, forecaster.sample):
            with pytest.raises(error, match=r"^horizon:"):
                method(value)


def test_an_interval_beyond_the_residuals_names_the_remedies():
    forecaster = fit(make(), walk(70))
    with pytest.raises(ValueError, match=r'^horizon: got 4, .* up to 3 steps .* larger horizon.*method="paths"'):
        forecaster.predict_interval(4)
    lower, upper = forecaster.predict_interval(40, method="paths", coverage=0.5)
    assert lower.shape == upper.shape == (40,)


def test_series_too_short_to_know_any_error_of_the_horizon():
    # 30 steps train a recursive network of horizon 50, but no window of 6 is followed by 50 steps.
    forecaster = fit(make(strategy="recursive", horizon=50, early_stopping=False), walk(30))
    assert forecaster.predict().shape == (50,)
    with pytest.raises(ValueError, match=r'^method: no window .* whole horizon.*method="paths"'):
        forecaster.predict_interval()
    lower, upper = forecaster.predict_interval(method="paths", random_state=0)
    assert (lower < upper).all()


def test_few_errors_give_a_warning_that_names_how_many_are_needed():
    forecaster = fit(make(), walk(80))  # 72 windows followed by 3 steps, of which 7 are held out
    message = r"^coverage: 0\.9 needs the errors of 19 windows or more, there are 7: .* Student t"
    with pytest.warns(UserWarning, match=message):
        lower, upper = forecaster.predict_interval(coverage=0.9)
    narrow = forecaster.predict_interval(coverage=0.75)  # 7 = 2 / (1 - 0.75) - 1: the extremes, and no warning
    assert (lower <= narrow[0]).all() and (narrow[1] <= upper).all()
    with pytest.warns(UserWarning, match=message):
        forecaster.predict_interval(coverage=0.9, method="paths", random_state=0)
    with pytest.warns(UserWarning):
        wider = forecaster.predict_interval(coverage=0.99)
    assert (wider[0] < lower).all() and (upper < wider[1]).all()


def test_bounds_from_few_errors_are_those_of_student():
    stats = pytest.importorskip("scipy.stats")
    errors = generator().normal(size=(7, 4, 2)) * np.array([2.0, 1.0, 3.0, 4.0])[:, None]
    with pytest.warns(UserWarning, match="Student"):
        lower, upper = bounds(errors, 0.95)
    squares = np.mean(errors**2, axis=0)
    assert (squares[1] < squares[0]).all() and (np.diff(squares[1:], axis=0) > 0).all()
    squares[:2] = squares[:2].mean(axis=0)  # isotonic regression of these
    degrees = (7 + np.arange(4)) / np.arange(1, 5)  # of windows that do not overlap
    half = stats.t.ppf(0.975, degrees)[:, None] * np.sqrt(squares)
    np.testing.assert_allclose(upper, np.maximum(half, errors.max(axis=0)), rtol=1e-5)
    np.testing.assert_allclose(lower, np.minimum(-half, errors.min(axis=0)), rtol=1e-5)


def seasonal(steps, seed):
    return 2 * np.sin(2 * np.pi * np.arange(steps) / 6 + seed) + autoregression(steps, 0.5, seed)


def test_intervals_of_short_series_cover():
    inside = {"residuals": [], "paths": [], "extremes": []}
    for seed in range(24):
        for y, lags in ((autoregression(66, 0.8, seed), ()), (seasonal(66, seed), (6,))):
            forecaster = LSTMForecaster(6, 4, differences=lags, hidden_size=4, max_iter=8, random_state=seed)
            past, future = y[:62], y[62:]
            fit(forecaster, past)
            with pytest.warns(UserWarning, match="Student"):
                bounds = {"residuals": forecaster.predict_interval()}
            with pytest.warns(UserWarning, match="Student"):
                bounds["paths"] = forecaster.predict_interval(method="paths", n_paths=200, random_state=seed)
            bounds["extremes"] = forecaster.predict_interval(coverage=0.6)  # of the 4 or 5 errors
            for method, (lower, upper) in bounds.items():
                inside[method].append((lower < future) & (future < upper))
    found = {method: np.mean(values) for method, values in inside.items()}
    # 48 series of 4 dependent steps: a deviation of sqrt(0.9 * 0.1 / 48) = 0.043 at most; two of them.
    assert 0.81 < found["residuals"] < 0.99 and 0.81 < found["paths"] < 0.99
    assert found["extremes"] < 0.7


def test_score_is_r2_of_what_followed_and_lets_a_search_run():
    y = np.sin(np.arange(300) / 5) + 0.01 * generator().normal(size=300)
    forecaster = LSTMForecaster(window=20, horizon=5, hidden_size=8, max_iter=30, tol=1e-3, random_state=0)
    fit(forecaster, y[:250])
    assert forecaster.score(y[250:]) == r2_score(y[250:], forecaster.predict(50)) > 0.8
    x = np.cos(np.arange(300) / 5)[:, None]
    fit(forecaster, y[:250], x[:250])
    for end in (254, 263):  # also where that is no whole number of blocks
        wanted = r2_score(y[250:end], forecaster.predict(end - 250, x[250:end]))
        assert forecaster.score(y[250:end], x[250:end]) == wanted
    with pytest.raises(ValueError, match=r"^y: got 0 steps, must be at least one"):
        forecaster.score(y[:0], x[:0])
    several = fit(make(), [y[:200], y[50:250]])
    true = [y[200:205], y[250:258]]
    scores = [r2_score(a, f[: len(a)]) for a, f in zip(true, several.predict(8), strict=True)]
    assert several.score(true) == np.mean(scores)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = GridSearchCV(forecaster, {"window": [2, 20]}, cv=TimeSeriesSplit(3, test_size=20)).fit(y)
    assert search.best_params_ == {"window": 20}  # from two values it cannot tell how a noisy sine goes on


def test_trace_shows_the_gates_on_the_windows_of_the_next_forecast():
    y, x = walk(80), generator(1).normal(size=(80, 2))
    forecaster = fit(make(differences=(1,)), y, x)
    trace = forecaster.trace(x[:3])[0]
    window = Oracle(forecaster, [y], [x]).window_of(0, y[:, None], np.concatenate([x, x[:3]]))
    np.testing.assert_array_equal(trace.f[0, 0], forecaster.model_.trace(window[None])[0].f[0, 0])
    assert trace.f[0, 0].shape == (1, 6, 4)


def test_frames_of_exogenous_variables_are_checked_by_name():
    pandas = pytest.importorskip("pandas")
    x = pandas.DataFrame(generator().normal(size=(70, 2)), columns=["warm", "wet"])
    forecaster = fit(make(), walk(70), x)
    with pytest.raises(ValueError, match=r"^X: has the columns \['wet', 'warm'\], must have.*\['warm', 'wet'\]"):
        forecaster.predict(3, x[["wet", "warm"]][:3])
    np.testing.assert_array_equal(forecaster.predict(3, x[:3]), forecaster.predict(3, x[:3].to_numpy()))


def test_values_too_large_to_scale_are_an_error():
    with pytest.raises(ValueError, match=r"^y: series 0 has values up to .*e\+1\d\d, too large to scale; divide"):
        make().fit(walk(70) * 1e160)
    with pytest.raises(ValueError, match=r"^X: has values up to .*e\+1\d\d, too large to scale; divide"):
        make().fit(walk(70), walk(70) * 1e160)
