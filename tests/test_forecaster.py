"""LSTMForecaster against its whole pipeline written out in NumPy, and its contract as an estimator.

The oracle below takes nothing from the forecaster but `model_`: splitting, differencing, scaling, windows, leading
exogenous variables, the recursion block by block and the undoing of it all are its own, one number at a time.
"""

import itertools
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import lstmx
from lstmx import training

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit

from lstmx import LSTMForecaster
from lstmx.predictors.forecaster import difference, integrate, lead

# The oracle's numbers differ by the rounding of sums and differences of numbers up to 1e3 in another order. A float32
# model may see an input that is rounded the other way, 6e-8 of it, through a few blocks, and gives float32 results.
ORACLE = {
    "float64": {"rtol": 1e-10, "atol": 1e-10},
    "float32": {"rtol": 2e-5, "atol": 2e-4},
}
# Linear algebra on arrays of order 1 in another order.
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}


def generator(seed=0):
    return np.random.default_rng(seed)


def make(**parameters):
    """A forecaster that trains in some milliseconds."""
    small = {"window": 6, "horizon": 3, "hidden_size": 4, "max_iter": 2, "random_state": 0, "differences": ()}
    return LSTMForecaster(**(small | parameters))


def fit(forecaster, y, X=None):
    """`fit`, which may well not have converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return forecaster.fit(y, X)


def walk(steps, variables=None, seed=0, scale=1.0):
    """A random walk (steps,) or (steps, variables), each variable of another scale and level."""
    found = scale * generator(seed).normal(size=(steps, variables or 1)).cumsum(axis=0)
    found = found * 10.0 ** np.arange(variables or 1) + 5
    return found if variables else found[:, 0]


# The oracle.


def differenced(y, lags):
    """y less what it was `lag` rows before, for each lag in turn."""
    for lag in lags:
        y = np.array([y[t] - y[t - lag] for t in range(lag, len(y))])
    return y


def continued(y, lags, step):
    """The row after those of y whose differences end with `step`."""
    if not lags:
        return step
    inner = continued(differenced(y, lags[:1]), lags[1:], step)
    return y[len(y) - lags[0]] + inner


def parts(forecaster, steps):
    """(rows of the last window's origin for training, first origin held out) of a series: what `fit` documents."""
    block = forecaster.horizon if forecaster.strategy == "direct" else 1
    first = forecaster.window + sum(forecaster.differences) - 1
    origins = [t for t in range(steps) if t >= first and t + block < steps]
    if not forecaster.early_stopping:
        return origins, []
    followed = [t for t in origins if t + forecaster.horizon < steps]  # by the whole horizon
    begin = followed[-max(1, round(forecaster.validation_fraction * len(followed)))]
    return [t for t in origins if t + block <= begin], [t for t in origins if t >= begin]


class Oracle:
    """What `forecaster` should do with series (each (T, O)) and exogenous variables (each (T, E) or None)."""

    def __init__(self, forecaster, series, exogenous=None):
        self.forecaster, self.model = forecaster, forecaster.model_
        self.series = [np.asarray(y, np.float64).reshape(len(y), -1) for y in series]
        self.exogenous = None if exogenous is None else [np.asarray(x, np.float64) for x in exogenous]
        self.window, self.lags = forecaster.window, tuple(forecaster.differences)
        self.block = forecaster.horizon if forecaster.strategy == "direct" else 1
        self.parts = [parts(forecaster, len(y)) for y in self.series]
        ends = [train[-1] + self.block + 1 for train, _ in self.parts]  # what training sees
        z = [differenced(y[:end], self.lags) for y, end in zip(self.series, ends, strict=True)]
        self.mean, self.scale = [a.mean(axis=0) for a in z], [a.std(axis=0) for a in z]
        if not forecaster.standardize:
            self.mean, self.scale = [0 * m for m in self.mean], [np.ones_like(s) for s in self.scale]
        if exogenous is not None:
            seen = np.concatenate([x[:end] for x, end in zip(self.exogenous, ends, strict=True)])
            self.x_mean, self.x_scale = seen.mean(axis=0), seen.std(axis=0)

    def window_of(self, k, y, x):
        """What the model reads at the last row of y, as a series `k`; x goes on for a block at least."""
        z = (differenced(y, self.lags) - self.mean[k]) / self.scale[k]
        rows = []
        for back in range(self.window, 0, -1):
            row = z[len(z) - back]
            if self.exogenous is not None:
                t = len(y) - back
                row = np.concatenate(
                    [row, *((x[t + j] - self.x_mean) / self.x_scale for j in range(1, self.block + 1))]
                )
            rows.append(row)
        return np.array(rows)

    def forecast(self, k, horizon, future=None, y=None, x=None):
        """(horizon, O) after the end of series k, or of y."""
        y = self.series[k] if y is None else y
        if self.exogenous is not None:
            x = np.concatenate([self.exogenous[k] if x is None else x, future])
        found = y
        while len(found) < len(y) + horizon:
            given = self.model.predict(self.window_of(k, found, x)[None])[0].astype(np.float64)
            for step in given.reshape(self.block, -1):
                found = np.concatenate([found, continued(found, self.lags, step * self.scale[k] + self.mean[k])[None]])
        return found[len(y) : len(y) + horizon]

    def target_of(self, k, t):
        """What the model should give at origin t."""
        z = (differenced(self.series[k], self.lags) - self.mean[k]) / self.scale[k]
        return np.concatenate([z[t - sum(self.lags) + j] for j in range(1, self.block + 1)])


LAGS = [(), (1,), (12,), (12, 1), (1, 1)]


@pytest.mark.parametrize("exogenous", [0, 2])
@pytest.mark.parametrize("lags", LAGS, ids=str)
@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_forecast_is_the_oracles(strategy, lags, exogenous):
    y, x = walk(90, 2), generator(1).normal(size=(90, exogenous)) * 3 + 1
    future = generator(2).normal(size=(12, exogenous))
    forecaster = make(strategy=strategy, differences=lags)
    X, more = (x, future) if exogenous else (None, None)
    fit(forecaster, y, X)
    oracle = Oracle(forecaster, [y], [x] if exogenous else None)
    for horizon in (1, 2, 3, 4, 9, 11, None):  # below, at and above the fitted one; whole blocks and parts of them
        found, wanted = forecaster.predict(horizon, more), oracle.forecast(0, horizon or 3, more)
        assert found.shape == (horizon or 3, 2)
        np.testing.assert_allclose(found, wanted, **ORACLE["float64"])
        # Two ways to the same number would agree here even if differencing did nothing: the data drift.
        assert np.abs(np.diff(found, axis=0)).max(initial=1) > 1e-3


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_forecasts_of_several_series_of_other_lengths_and_scales(strategy, standardize, early_stopping):
    series = [walk(60, seed=1), walk(95, seed=2, scale=100), walk(41, seed=3, scale=0.01)]
    forecaster = make(strategy=strategy, standardize=standardize, differences=(1,), early_stopping=early_stopping)
    fit(forecaster, series)
    oracle = Oracle(forecaster, series)
    found = forecaster.predict(7)
    assert isinstance(found, list) and [a.shape for a in found] == [(7,)] * 3
    for k, a in enumerate(found):
        np.testing.assert_allclose(a, oracle.forecast(k, 7)[:, 0], **ORACLE["float64"])


@pytest.mark.parametrize("variables", [None, 1, 3])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_form_and_type_of_a_forecast(dtype, several, variables):
    series = [walk(70, variables, seed=s).astype(dtype) for s in range(2 if several else 1)]
    forecaster = fit(make(differences=(1,)), series if several else series[0])
    oracle, found = Oracle(forecaster, series), forecaster.predict(5)
    assert isinstance(found, list) is several
    for k, a in enumerate(found if several else [found]):
        assert a.dtype == dtype and a.shape == ((5,) if variables is None else (5, variables))
        # float32 results are as exact as the largest number in them: the variables' scales are 1, 10, 100.
        tolerance = ORACLE[dtype] | {"atol": ORACLE[dtype]["atol"] * 10 ** (variables or 1)}
        np.testing.assert_allclose(a.reshape(5, -1), oracle.forecast(k, 5), **tolerance)
    assert forecaster.model_.dtype == dtype


def test_exogenous_variables_of_several_series():
    lengths = (60, 85)
    series = [walk(n, 2, seed=n) for n in lengths]
    x = [generator(n).normal(size=(n, 3)) for n in lengths]
    future = [generator(n + 1).normal(size=(9, 3)) for n in lengths]
    forecaster = fit(make(differences=(1,)), series, x)
    oracle = Oracle(forecaster, series, x)
    for k, a in enumerate(forecaster.predict(8, future)):
        np.testing.assert_allclose(a, oracle.forecast(k, 8, future[k]), **ORACLE["float64"])
    with pytest.raises(ValueError, match=r"^X\[1\]: .*next 9 steps, \(9, 3\).*block of 3"):
        forecaster.predict(8, [future[0], future[1][:8]])  # a block of 3 is forecast at once: 9 rows


def test_future_variables_beyond_the_horizon_are_not_looked_at():
    y, x = walk(80), generator(1).normal(size=(80, 2))
    for strategy in ("direct", "recursive"):
        forecaster = fit(make(strategy=strategy), y, x)
        future = generator(2).normal(size=(30, 2))
        found = forecaster.predict(6, future)
        np.testing.assert_array_equal(found, forecaster.predict(6, future[:6]))
        changed = future.copy()
        changed[:6] += 1  # but those within do matter
        assert (forecaster.predict(6, changed) != found).any()
    single = fit(make(), y, x[:, 0])  # one variable may come as (T,)
    np.testing.assert_array_equal(single.predict(3, future[:3, 0]), single.predict(3, future[:3, :1]))


# What the network is trained on.


class Stop(Exception):
    """Raised in place of training."""


@pytest.fixture
def intercepted(monkeypatch):
    """The Trainer that `fit` makes, as a function of a forecaster and its data; nothing is trained."""

    def intercept(forecaster, y, X=None):
        found = []

        def run(self, epochs):
            found.append(self)
            raise Stop

        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(training.Trainer, "run", run)
            forecaster.fit(y, X)
        return found[0]

    return intercept


def all_of(data):
    """(inputs (n, W, F), targets (n, B * O)) of training data, in the order of the data."""
    rows, context, targets, weights = data.take(np.arange(len(data.inputs.lengths)))
    assert (weights == 1).all()
    return np.array(context.unpack(rows)), targets


@pytest.mark.parametrize("lags", [(), (12, 1)], ids=str)
@pytest.mark.parametrize("exogenous", [0, 2])
@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_windows_and_targets_of_training(intercepted, strategy, early_stopping, exogenous, lags):
    series = [walk(n, 2, seed=n) for n in (60, 85)]
    x = [generator(n).normal(size=(len(y), exogenous)) for n, y in enumerate(series)]
    forecaster = make(strategy=strategy, early_stopping=early_stopping, differences=lags, validation_fraction=0.2)
    trainer = intercepted(forecaster, series, x if exogenous else None)

    class Untrained:
        model_ = None

        def __getattr__(self, name):
            return getattr(forecaster, name)

    oracle = Oracle(Untrained(), series, x if exogenous else None)
    validation = trainer.validation
    assert (validation is not None) == early_stopping
    for data, which in ((trainer.data, 0), (validation, 1)):
        if data is None:
            continue
        inputs, targets = all_of(data)
        places = [(k, t) for k, split in enumerate(oracle.parts) for t in split[which]]
        assert len(inputs) == len(places)
        for window, target, (k, t) in zip(inputs, targets, places, strict=True):
            np.testing.assert_allclose(window, oracle.window_of(k, series[k][: t + 1], x[k]), **ROUNDING)
            np.testing.assert_allclose(target, oracle.target_of(k, t), **ROUNDING)
    assert len(trainer.parameters.net.layers) == 3


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_nothing_held_out_is_seen_by_training(intercepted, strategy, fraction):
    horizon, y, x = 5, walk(100, 2), generator(1).normal(size=(100, 2))
    forecaster = make(strategy=strategy, horizon=horizon, validation_fraction=fraction, differences=(1,))
    trainer = intercepted(forecaster, y, x)
    train, rest = parts(forecaster, 100)
    block = horizon if strategy == "direct" else 1
    assert {t + j for t in train for j in range(1, block + 1)}.isdisjoint(
        {t + j for t in rest for j in range(1, block + 1)}
    )
    assert train[-1] + 1 == rest[0] - block + 1  # and no window is wasted
    inputs, targets = all_of(trainer.data)
    later = slice(train[-1] + block + 1, None)
    changed, changed_x = y.copy(), x.copy()
    changed[later] += 1000
    changed_x[later] -= 1000
    others = all_of(intercepted(forecaster, changed, changed_x).data)
    np.testing.assert_array_equal(inputs, others[0])  # to the last bit: means and deviations are of training alone
    np.testing.assert_array_equal(targets, others[1])
    changed[train[-1] + block] += 1  # the last row that training does see
    assert (all_of(intercepted(forecaster, changed, changed_x).data)[1] != targets).any()


MEMORY = """
import resource, sys, warnings
import numpy as np
from lstmx import LSTMForecaster
from lstmx.training import trainer

warnings.simplefilter("ignore")
steps, window, batches = 50_000, 1000, int(sys.argv[1])
if batches:
    whole = trainer.plan
    trainer.plan = lambda lengths, size, shuffle, rng: whole(lengths, size, shuffle, rng)[:batches]
y = np.sin(np.arange(steps) / 50)
LSTMForecaster(window=10, hidden_size=2, max_iter=1, random_state=0).fit(y[:100]).predict()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
forecaster = LSTMForecaster(window=window, hidden_size=1, max_iter=1, random_state=0).fit(y)
assert np.isfinite(forecaster.predict())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("batches", [3, pytest.param(0, marks=pytest.mark.long)])
def test_windows_are_not_copied(batches):
    pytest.importorskip("resource")
    if sys.platform == "darwin":
        pytest.skip("ru_maxrss counts bytes there")
    run = subprocess.run([sys.executable, "-c", MEMORY, str(batches)], capture_output=True, text=True, check=True)
    # 49,000 windows of 1,000 float64 would be 392 MB. Batches of some MB, 1,000 windows for the residuals (8 MB, a few
    # times), and copies of the series (0.4 MB each) are all there should be.
    assert int(run.stdout) < 100e6


# differences.


LAG_LISTS = st.lists(st.integers(1, 5), max_size=3)


@given(lags=LAG_LISTS, more=st.integers(1, 12), extra=st.integers(0, 4), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_integrate_undoes_difference(lags, more, extra, seed):
    # Whole numbers: float64 adds and subtracts them exactly, so that the two are inverses to the last bit.
    y = generator(seed).integers(-1000, 1000, size=(2, sum(lags) + extra + more, 3)).astype(np.float64)
    before = y[:, : y.shape[1] - more]
    steps = difference(y, lags)[-1][:, -more:]
    np.testing.assert_array_equal(integrate(steps, difference(before, lags), lags), y[:, -more:])
    levels = difference(y, lags)
    assert [a.shape[1] for a in levels] == [y.shape[1] - sum(lags[:k]) for k in range(len(lags) + 1)]
    np.testing.assert_array_equal(levels[-1][0], differenced(y[0], lags))


@given(rows=st.integers(1, 8), count=st.integers(1, 8), features=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_lead(rows, count, features):
    x = generator().normal(size=(2, rows + count, features))
    found = lead(x, count)
    assert found.shape == (2, rows, count * features)
    for t in range(rows):
        np.testing.assert_array_equal(found[:, t].reshape(2, count, features), x[:, t + 1 : t + 1 + count])


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
    with pytest.warns(UserWarning, match=r"^coverage: 0\.9 needs the errors of 19 windows or more, there are 7"):
        lower, upper = forecaster.predict_interval(coverage=0.9)
    narrow = forecaster.predict_interval(coverage=0.75)  # 7 = 2 / (1 - 0.75) - 1: the extremes, and no warning
    np.testing.assert_array_equal((lower, upper), narrow)


def test_score_is_r2_of_what_followed_and_lets_a_search_run():
    y = np.sin(np.arange(300) / 5) + 0.01 * generator().normal(size=300)
    forecaster = LSTMForecaster(window=20, horizon=5, hidden_size=8, max_iter=30, tol=1e-3, random_state=0)
    fit(forecaster, y[:250])
    assert forecaster.score(y[250:]) == r2_score(y[250:], forecaster.predict(50)) > 0.8
    x = np.cos(np.arange(300) / 5)[:, None]
    fit(forecaster, y[:250], x[:250])
    assert forecaster.score(y[250:263], x[250:263]) == r2_score(y[250:260], forecaster.predict(10, x[250:260]))
    with pytest.raises(ValueError, match=r"^y: got 4 steps, must be at least one block of 5"):
        forecaster.score(y[250:254], x[250:254])
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


# update.


@pytest.mark.parametrize("exogenous", [0, 2])
@pytest.mark.parametrize("lags", [(), (5, 1)], ids=str)
@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_update_is_having_seen_more(strategy, lags, exogenous):
    y, x = walk(120, 2), generator(1).normal(size=(140, exogenous))
    new = slice(80, 113)
    forecaster = make(strategy=strategy, differences=lags)
    fit(forecaster, y[:80], x[:80] if exogenous else None)
    oracle = Oracle(forecaster, [y[:80]], [x[:80]] if exogenous else None)
    before = pickle.dumps(forecaster)
    assert forecaster.update(y[new], x[new] if exogenous else None) is forecaster
    found = forecaster.predict(7, x[113:125] if exogenous else None)
    wanted = oracle.forecast(0, 7, x[113:125], y=y[:113], x=x[:113])
    np.testing.assert_allclose(found, wanted, **ORACLE["float64"])
    for sizes in ([1] * 33, [2, 0, 30, 1], [20, 13]):  # shorter than a window, longer than one, nothing
        other, start = pickle.loads(before), 80
        for size in sizes:
            part = slice(start, start + size)
            other.update(y[part], x[part] if exogenous else None)
            start += size
        np.testing.assert_array_equal(other.predict(7, x[113:125] if exogenous else None), found)


def test_update_of_several_series():
    series = [walk(70, seed=1), walk(90, seed=2)]
    forecaster = fit(make(differences=(1,)), [a[:60] for a in series])
    oracle = Oracle(forecaster, [a[:60] for a in series])
    forecaster.update([series[0][60:], series[1][60:75]])  # as many as each has
    for k, end in enumerate((70, 75)):
        wanted = oracle.forecast(k, 5, y=series[k][:end, None])[:, 0]
        np.testing.assert_allclose(forecaster.predict(5)[k], wanted, **ORACLE["float64"])


@pytest.mark.parametrize(
    ("y", "X", "message"),
    [
        (np.zeros((4, 3)), np.zeros((4, 1)), "^y: got 3 variables, must be 2"),
        (np.zeros(4), np.zeros((4, 1)), "^y: got 1 variables, must be 2"),
        (np.zeros((4, 2)), None, "^X: must be the exogenous variables"),
        (np.zeros((4, 2)), np.zeros((3, 1)), r"^X: got shape \(3, 1\), must be \(4, 1\)"),
        (np.zeros((4, 2)), np.zeros((4, 2)), r"^X: got shape \(4, 2\), must be \(4, 1\)"),
        (np.full((4, 2), np.nan), np.zeros((4, 1)), "^y: contains NaN or infinity at step 0"),
        (np.zeros((4, 2)), np.full((4, 1), np.inf), "^X: contains NaN or infinity at step 0"),
        ([np.zeros((4, 2))], np.zeros((4, 1)), "^y: got list, must be one array"),
        (np.zeros((1, 4, 2)), np.zeros((4, 1)), "^y: got ndarray, must be one array"),
    ],
)
def test_update_with_what_does_not_fit_is_an_error_and_loses_nothing(y, X, message):
    forecaster = fit(make(), walk(70, 2), generator().normal(size=(70, 1)))
    future = np.zeros((3, 1))
    before = forecaster.predict(3, future)
    with pytest.raises(ValueError, match=message):
        forecaster.update(y, X)
    np.testing.assert_array_equal(forecaster.predict(3, future), before)


def test_update_of_several_series_with_too_few_loses_nothing():
    forecaster = fit(make(), [walk(60), walk(70)])
    before = forecaster.predict()
    with pytest.raises(ValueError, match=r"^y: got 1 series, must be 2"):
        forecaster.update([np.zeros(3)])
    with pytest.raises(ValueError, match=r"^y\[1\]: got 2 variables, must be 1"):
        forecaster.update([np.zeros(3), np.zeros((3, 2))])  # the first was right, and yet is not taken
    with pytest.raises(ValueError, match=r"^y: got ndarray, must be a list of 2 arrays"):
        forecaster.update(np.zeros(3))
    with pytest.raises(ValueError, match=r"^X: got exogenous variables, but"):
        forecaster.update([np.zeros(3), np.zeros(3)], [np.zeros((3, 1))] * 2)
    np.testing.assert_array_equal(forecaster.predict(), before)


# Data that do not fit.


@pytest.mark.parametrize(
    ("y", "X", "error", "message"),
    [
        (walk(70), np.zeros((69, 1)), ValueError, "^X: got 69 rows, but y has 70 steps"),
        ([walk(70), walk(60)], [np.zeros((70, 1)), np.zeros((70, 1))], ValueError, r"^X\[1\]: got 70 rows.*60 steps"),
        ([walk(70), walk(60)], [np.zeros((70, 1))], ValueError, "^X: got 1 series, must be 2"),
        ([walk(70), walk(60)], np.zeros((70, 1)), ValueError, "^X: got ndarray, must be a list of 2"),
        (walk(70), [np.zeros((70, 1))], ValueError, "^X: got list, must be one array"),
        ([walk(70), walk(60)], [np.zeros((70, 1)), np.zeros((60, 2))], ValueError, "^X: its arrays have different"),
        ([walk(70), walk(60, 2)], None, ValueError, "^y: its series have different numbers of variables"),
        (np.r_[walk(40), np.nan, walk(40)], None, ValueError, "^y: contains NaN or infinity at step 40; fill it"),
        ([walk(70), np.r_[walk(40), np.inf]], None, ValueError, r"^y\[1\]: contains NaN or infinity at step 40"),
        (walk(70), np.r_[np.zeros(69), np.nan], ValueError, "^X: contains NaN or infinity at step 69"),
        (None, None, TypeError, "^y: got NoneType of objects, must be numbers"),
        (3.0, None, ValueError, r"^y: got shape \(\)"),
        ("series", None, TypeError, "^y: got dtype"),
        (np.zeros(70, complex), None, TypeError, "^y: got dtype complex"),
        (np.zeros((2, 30, 2, 2)), None, ValueError, r"^y: got shape \(2, 30, 2, 2\)"),
        ([np.zeros((2, 30, 2))], None, ValueError, r"^y\[0\]: got shape \(2, 30, 2\)"),
        (np.zeros((70, 0)), None, ValueError, r"^y: got shape \(70, 0\)"),
        (np.zeros((0, 70, 1)), None, ValueError, "^y: holds no series"),
        ([], None, ValueError, "^y: .*0 steps"),
        ([[[1, 2], [3]], [[1]]], None, ValueError, r"^y\[0\]: not a rectangular array"),
        ([walk(70), 3.0], None, ValueError, r"^y\[1\]: got shape \(\)"),
    ],
)
def test_data_that_do_not_fit(y, X, error, message):
    with pytest.raises(error, match=message):
        make().fit(y, X)


def test_future_variables_that_do_not_fit():
    without, single = fit(make(), walk(70)), fit(make(), walk(70), np.zeros((70, 2)))
    for method in ("predict", "predict_interval", "sample"):
        with pytest.raises(ValueError, match=r"^X: got exogenous variables, but the model was fitted without"):
            getattr(without, method)(3, np.zeros((3, 1)))
        ask = getattr(single, method)
        with pytest.raises(ValueError, match=r"^X: must be the exogenous variables of the next 3 steps, \(3, 2\)"):
            ask(3)
        with pytest.raises(ValueError, match=r"^X: got shape \(2, 2\), must be .*next 3 steps"):
            ask(3, np.zeros((2, 2)))
        with pytest.raises(ValueError, match=r"^X: got shape \(3, 1\), must be .*\(3, 2\)"):
            ask(3, np.zeros(3))
        with pytest.raises(ValueError, match=r"^X: contains NaN or infinity at step 1"):
            ask(3, np.r_[np.zeros((1, 2)), np.full((2, 2), np.nan)])
        with pytest.raises(ValueError, match=r"^X: got list, must be one array"):
            ask(3, [np.zeros((3, 2))])


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("strategy", ["direct", "recursive"])
@given(
    window=st.integers(1, 12),
    horizon=st.integers(1, 40),
    lags=st.lists(st.integers(1, 7), max_size=2),
    fraction=st.floats(0.01, 0.95),
)
@example(window=6, horizon=20, lags=[], fraction=0.1)  # two windows are held out where three are left
@example(window=6, horizon=1, lags=[], fraction=0.9)
@settings(max_examples=12, deadline=None)
def test_the_length_that_an_error_names_is_exactly_enough(strategy, early_stopping, window, horizon, lags, fraction):
    forecaster = make(window=window, horizon=horizon, differences=tuple(lags), strategy=strategy, max_iter=1,
                      early_stopping=early_stopping, validation_fraction=fraction, hidden_size=1)  # fmt: skip
    with pytest.raises(ValueError, match=r"^y: series 0 has 1 steps.* at least \d+: shorten") as error:
        forecaster.fit(np.zeros(1))
    assert ("early_stopping=False" in str(error.value)) == early_stopping
    need = int(str(error.value).split("at least ")[1].split(":")[0])
    with pytest.raises(ValueError, match=rf"^y: series 0 has {need - 1} steps.* at least {need}:"):
        forecaster.fit(walk(need - 1))
    with pytest.raises(ValueError, match=r"^y: series 1 has"):
        forecaster.fit([walk(need), walk(need - 1)])
    fit(forecaster, walk(need))
    assert np.isfinite(forecaster.predict()).all()


# Forms.


def test_frames_lists_and_arrays_are_the_same():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    y, two = walk(70), walk(70, 2)
    dates = pandas.date_range("2020-01-01", periods=70)
    names = ["a", "b"]
    for forms in (
        [y, y.tolist(), pandas.Series(y, index=dates), polars.Series(y), y[::-1].copy()[::-1], y.astype(">f8")],
        [two, two.tolist, pandas.DataFrame(two, dates, names), polars.DataFrame(two, names), np.asfortranarray(two)],
        [
            [y, y[:50]],
            (y, y[:50]),
            np.array([y, y[:50]], dtype=object),
            [pandas.Series(y), polars.Series(y[:50])],
            [y.tolist(), y[:50].tolist()],
        ],
        [np.stack([two, two + 1]), [two, two + 1], [pandas.DataFrame(two), polars.DataFrame(two + 1)]],
    ):
        found = [fit(make(), form).predict() for form in forms if not callable(form)]
        for other in found[1:]:
            assert type(other) is type(found[0])
            for a, b in zip(other, found[0], strict=True):
                np.testing.assert_array_equal(a, b)
    x = generator().normal(size=(70, 2))
    found = fit(make(), y, pandas.DataFrame(x)).predict(3, polars.DataFrame(x[:3]))
    np.testing.assert_array_equal(found, fit(make(), y, x).predict(3, x[:3]))
    forecaster = fit(make(), pandas.Series(y)).update(pandas.Series(y[:3], dates[:3]))
    np.testing.assert_array_equal(forecaster.predict(), fit(make(), y).update(y[:3]).predict())


def test_type_follows_the_data_in_every_form():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    y = walk(70).astype(np.float32)
    forms = [y, y.astype(">f4"), pandas.Series(y), pandas.DataFrame({"a": y}), polars.Series(y),
             polars.DataFrame({"a": y}), [y, y[:50]],
             np.array([y, y[:50]], dtype=object), [pandas.Series(y), polars.Series(y)]]  # fmt: skip
    for form in forms:
        found = fit(make(max_iter=1), form).predict()
        assert all(a.dtype == np.float32 for a in found), type(form)
    for form in (y.astype(np.float16), y.astype(np.int32), [y, y.astype(np.float64)], y.tolist()):
        found = fit(make(max_iter=1), form).predict()
        assert all(a.dtype == np.float64 for a in found), type(form)


# What it learns.


def test_a_constant_series_stays():
    for value in (0.1, -7.0, 1e6):
        for lags in ((), (1,), (4, 1)):
            forecaster = make(horizon=4, differences=lags, max_iter=60, learning_rate_init=0.02)
            found = fit(forecaster, np.full(60, value)).predict(9)
            # Nothing varies, so the network's errors are in units of the rounding.
            np.testing.assert_allclose(found, value, rtol=1e-13, atol=0)  # 9 steps of some roundings
            np.testing.assert_allclose(forecaster.predict_interval(coverage=0.5), value, rtol=1e-13, atol=0)


def test_a_trend_goes_on_with_differences():
    t = np.arange(100.0)
    for strategy in ("direct", "recursive"):
        forecaster = fit(make(strategy=strategy, differences=(1,), max_iter=5), 3 * t + 1)
        np.testing.assert_allclose(forecaster.predict(30), 3 * np.arange(100, 130) + 1, rtol=1e-12, atol=0)
        rough = fit(make(strategy=strategy, differences=(1,), max_iter=5), 0.1 * t)  # differences: 0.1 and rounding
        np.testing.assert_allclose(rough.predict(30), 0.1 * np.arange(100, 130), rtol=0, atol=1e-9)


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_a_sine_goes_on(strategy):
    y = 5 + 3 * np.sin(np.arange(420) * 2 * np.pi / 25)
    forecaster = LSTMForecaster(window=25, horizon=10, strategy=strategy, hidden_size=16, max_iter=60, random_state=0,
                                learning_rate_init=0.01, tol=0)  # fmt: skip
    fit(forecaster, y[:370])
    # Without any skill the error is about 3: a tenth of the amplitude for two periods.
    np.testing.assert_allclose(forecaster.predict(50), y[370:], rtol=0, atol=0.4)


def test_a_season_goes_on_with_differences():
    season = generator(5).normal(size=12) * 10
    y = np.tile(season, 12) + 2.0 * np.arange(144)
    forecaster = fit(make(window=6, horizon=12, differences=(12,), hidden_size=2, max_iter=3), y[:120])
    # y less y a season before is always 24: nothing is left to learn, and what the network says of it is in units of 1
    # where the season's are 10 and the trend's 48.
    np.testing.assert_allclose(forecaster.predict(24), y[120:], rtol=0, atol=0.1)


# As an estimator.


def frozen(y):
    y = np.array(y)
    y.flags.writeable = False
    return y


def test_clone_parameters_and_repr():
    parameters = {"window": 7, "horizon": 2, "strategy": "recursive", "differences": (3, 1), "loss": "huber"}
    forecaster = LSTMForecaster(**parameters)
    assert {name: forecaster.get_params()[name] for name in parameters} == parameters
    assert repr(forecaster).startswith("LSTMForecaster(")
    for name, value in parameters.items():
        assert f"{name}={value!r}" in repr(forecaster)
    assert "LSTMForecaster" in forecaster._repr_html_()
    other = clone(fit(forecaster.set_params(max_iter=1), walk(60)))
    assert other.get_params() == forecaster.get_params() and not hasattr(other, "n_iter_")
    assert other.set_params(window=5) is other and other.window == 5
    with pytest.raises(ValueError, match="nonsense"):
        other.set_params(nonsense=1)
    # As scikit-learn's own: __init__ sets parameters and nothing else, and checks nothing.
    assert set(vars(LSTMForecaster())) == set(LSTMForecaster().get_params())
    assert LSTMForecaster(window="junk").window == "junk"


def test_before_fit():
    forecaster = LSTMForecaster()
    for call in (
        forecaster.predict,
        forecaster.predict_interval,
        forecaster.sample,
        lambda: forecaster.update(walk(5)),
        lambda: forecaster.save("nowhere"),
        lambda: forecaster.model_,
        lambda: forecaster.parameters_,
    ):
        with pytest.raises(NotFittedError, match="LSTMForecaster"):
            call()


def test_a_failed_fit_leaves_what_was_fitted():
    y = walk(70)
    forecaster = fit(make(), y)
    before = forecaster.predict()
    with pytest.raises(ValueError, match="at least"):
        forecaster.fit(y[:5])
    np.testing.assert_array_equal(forecaster.predict(), before)


def test_pickle_is_the_same_forecaster(tmp_path):
    y, x = walk(80, 2), generator().normal(size=(80, 1))
    forecaster = fit(make(differences=(1,), validation_fraction=0.3), y, x)
    copy = pickle.loads(pickle.dumps(forecaster))
    forecaster.save(tmp_path / "forecaster")
    loaded = lstmx.load(tmp_path / "forecaster")
    assert copy.get_params() == forecaster.get_params() and copy.loss_curve_ == forecaster.loss_curve_
    for other in (copy, loaded):
        for _ in range(2):
            np.testing.assert_array_equal(other.predict(5, x[:6]), forecaster.predict(5, x[:6]))
            for a, b in zip(other.predict_interval(3, x[:3]), forecaster.predict_interval(3, x[:3]), strict=True):
                np.testing.assert_array_equal(a, b)
            arguments = {"n_paths": 4, "random_state": 5}
            np.testing.assert_array_equal(other.sample(5, x[:6], **arguments), forecaster.sample(5, x[:6], **arguments))
            other.update(y[:4], x[:4])
            forecaster.update(y[:4], x[:4])
        forecaster = fit(make(differences=(1,), validation_fraction=0.3), y, x)


def test_inputs_are_left_alone():
    y, x, future = frozen(walk(80, 2)), frozen(generator().normal(size=(80, 1))), frozen(np.ones((6, 1)))
    copies = y.copy(), x.copy()
    for strategy in ("direct", "recursive"):
        forecaster = fit(make(strategy=strategy, differences=(1,)), y, x)  # writing to them would raise
        forecaster.predict(6, future)
        forecaster.update(frozen(y[:3]), frozen(x[:3]))
    np.testing.assert_array_equal(y, copies[0])
    np.testing.assert_array_equal(x, copies[1])


def test_later_changes_of_the_data_do_not_reach_a_fitted_forecaster():
    y, x = walk(80), generator().normal(size=(80, 1))
    forecaster = fit(make(), y, x)
    new, new_x = walk(20), np.ones((20, 1))
    forecaster.update(new, new_x)
    before = forecaster.predict(3, x[:3])
    given = x[:3].copy()
    for array in (y, x, new, new_x):
        array[:] = 99
    np.testing.assert_array_equal(forecaster.predict(3, given), before)
    found = forecaster.predict(3, given)
    found[:] = 0  # nor does writing to a result
    np.testing.assert_array_equal(forecaster.predict(3, given), before)


def same_state(a, b):
    """Whether two forecasters are the same to the last bit."""
    first, second = a._predictor.state(), b._predictor.state()
    assert first[0] == second[0] and first[1].keys() == second[1].keys()
    return all(np.array_equal(first[1][name], second[1][name]) for name in first[1]) and a.loss_curve_ == b.loss_curve_


def test_fits_again_to_the_same_bits():
    y, x = walk(80, 2), generator().normal(size=(80, 1))
    forecaster = fit(make(max_iter=4, dropout=0.2), y, x)
    first = pickle.loads(pickle.dumps(forecaster))
    forecaster.update(y[:20], x[:20])
    assert same_state(fit(forecaster, y, x), first)  # what came between is forgotten
    assert same_state(fit(clone(forecaster), y, x), first)
    assert not same_state(fit(clone(forecaster).set_params(random_state=1), y, x), first)
    same_generator = fit(clone(forecaster).set_params(random_state=np.random.RandomState(0)), y, x)
    assert same_state(same_generator, first)
    free = [fit(clone(forecaster).set_params(random_state=None), y, x) for _ in range(2)]
    assert not same_state(*free)


def test_same_bits_for_any_number_of_threads():
    y = [walk(150, 2, seed=s) for s in range(3)]
    found = []
    for threads in (1, 2, 5):
        with lstmx.num_threads(threads):
            forecaster = fit(make(hidden_size=20, window=20, batch_size=64, differences=(1,)), y)
            found.append((forecaster, forecaster.sample(5, n_paths=300, random_state=0)))
    for other, paths in found[1:]:
        assert same_state(other, found[0][0])
        np.testing.assert_array_equal(paths, found[0][1])


def test_set_params_then_fit():
    y = walk(80)
    forecaster = fit(make(), y)
    fit(forecaster.set_params(window=9, horizon=5, hidden_size=7, strategy="recursive"), y)
    assert forecaster.predict().shape == (5,)
    assert forecaster.model_.layers[0].hidden_size == 7
    assert same_state(forecaster, fit(clone(forecaster), y))
    np.testing.assert_allclose(forecaster.predict(6), Oracle(forecaster, [y]).forecast(0, 6)[:, 0], **ORACLE["float64"])
    both = fit(forecaster, walk(80, 2))  # and with other data
    assert both.predict().shape == (5, 2) and both.n_features_in_ == 2


def test_a_parameter_set_after_fit_does_not_change_forecasts():
    forecaster = fit(make(differences=(1,)), walk(80))
    before, interval = forecaster.predict(5), forecaster.predict_interval(coverage=0.5)
    forecaster.set_params(window=20, horizon=9, strategy="recursive", differences=(), standardize=False)
    np.testing.assert_array_equal(forecaster.predict(5), before)
    np.testing.assert_array_equal(forecaster.predict_interval(coverage=0.5), interval)
    assert forecaster.predict().shape == (3,)  # the horizon of fit


def test_warm_start_goes_on():
    y = walk(120)
    forecaster = fit(make(warm_start=True, max_iter=3, tol=0), y)
    first, loss = forecaster.parameters_, forecaster.loss_curve_
    fit(forecaster, y)
    assert len(forecaster.loss_curve_) == 6 and forecaster.loss_curve_[:3] == loss
    assert len(forecaster.validation_scores_) == 6
    changed = [name for name, p in forecaster.parameters_.items() if not np.array_equal(p, first[name])]
    assert changed == list(first)
    # Other data of the same form are fine, and their own means and deviations count.
    fit(forecaster, 100 * y[:90] + 7)
    found, wanted = forecaster.predict(5), Oracle(forecaster, [100 * y[:90] + 7]).forecast(0, 5)[:, 0]
    np.testing.assert_allclose(found, wanted, **ORACLE["float64"])
    cold = fit(make(max_iter=3, tol=0), y)
    assert len(fit(cold, y).loss_curve_) == 3


@pytest.mark.parametrize(
    ("change", "data", "name"),
    [
        ({"window": 7}, (walk(80), None), "window"),
        ({"horizon": 4}, (walk(80), None), "block"),
        ({}, (walk(80, 2), None), "features"),
        ({}, (walk(80), np.zeros((80, 1))), "exogenous"),
    ],
)
def test_warm_start_of_another_form(change, data, name):
    forecaster = fit(make(warm_start=True), walk(80))
    before = forecaster.predict()
    with pytest.raises(ValueError, match=rf"^warm_start: the last fit had {name} = .*warm_start=False"):
        forecaster.set_params(**change).fit(*data)
    np.testing.assert_array_equal(forecaster.predict(), before)


JUNK = [None, "junk", "", b"x", -1, 0, 0.5, 1.5, -0.0, np.nan, np.inf, -np.inf, True, [], (), [1], {}, object(), 1j,
        10**30, np.array([1, 2]), np.array(["a"])]  # fmt: skip
GOOD = {  # what each parameter takes, by a rule that is not that of the library
    "window": lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0,
    "horizon": lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0,
    "strategy": lambda v: False,
    "differences": lambda v: isinstance(v, list | tuple) and all(x == 1 for x in v),
    "hidden_size": lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0,  # 10**30: a MemoryError
    "num_layers": lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0,
    "max_iter": lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0,
    "checkpoint_every": lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0,
    "loss": lambda v: False,
    "solver": lambda v: False,
    "learning_rate": lambda v: False,
    "batch_size": lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0,
    "standardize": lambda v: isinstance(v, bool),
    "shuffle": lambda v: isinstance(v, bool),
    "warm_start": lambda v: isinstance(v, bool),
    "early_stopping": lambda v: isinstance(v, bool),
    "nesterovs_momentum": lambda v: isinstance(v, bool),
    "resume": lambda v: False,  # True asks for a checkpoint
    "verbose": lambda v: isinstance(v, int) and v >= 0,
}
FLOATS = {"dropout", "alpha", "learning_rate_init", "power_t", "tol", "momentum", "validation_fraction", "beta_1",
          "beta_2", "epsilon", "clip_norm", "n_iter_no_change"}  # fmt: skip


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("name", sorted([*GOOD, *FLOATS]))
def test_junk_in_a_parameter_is_named(name, solver):
    y = walk(60)
    refused = 0
    for value in JUNK:
        if name == "resume" and value is False:
            continue
        forecaster = make(max_iter=1, solver=solver).set_params(**{name: value})
        if name in GOOD and GOOD[name](value):
            continue
        if name in FLOATS and (isinstance(value, int | float | np.bool_) or value is None) and value != -1:
            # Numbers that one parameter takes and another does not: fine, or named.
            try:
                fit(forecaster, y)
            except FloatingPointError:  # a number without an upper bound, as a rate of 1e30, can end like this
                pass
            except (ValueError, TypeError) as error:
                assert str(error).startswith(f"{name}:"), (value, error)
            continue
        with pytest.raises((ValueError, TypeError)) as error:
            fit(forecaster, y)
        assert str(error.value).startswith(f"{name}:"), (value, error.value)
        assert not hasattr(forecaster, "n_iter_")
        refused += 1
    assert refused > 5


@pytest.mark.parametrize("value", ["junk", -1, 1.5, object(), 10**30])
def test_junk_in_random_state_is_named(value):
    with pytest.raises((ValueError, TypeError), match=r"^random_state:"):
        make(random_state=value).fit(walk(60))


@pytest.mark.parametrize("value", [5.5, 3, b"x", object()])
def test_junk_in_checkpoint_is_named(value):
    with pytest.raises(TypeError, match=r"^checkpoint:"):
        make(checkpoint=value).fit(walk(60))


@pytest.mark.parametrize("name", ["window", "horizon"])
def test_a_window_or_horizon_beyond_all_series(name):
    with pytest.raises(ValueError, match=r"^y: series 0 has 60 steps; a window"):
        make(**{name: 10**30}).fit(walk(60))


@pytest.mark.parametrize("early_stopping", [True, False])
def test_attributes(early_stopping):
    y = walk(200)
    forecaster = fit(make(max_iter=7, tol=0, early_stopping=early_stopping), y)
    assert forecaster.n_iter_ == len(forecaster.loss_curve_) == 7
    assert forecaster.loss_ == forecaster.loss_curve_[-1]
    train, rest = parts(forecaster, 200)
    assert forecaster.t_ == 7 * len(train)
    assert forecaster.n_features_in_ == 1
    if not early_stopping:
        assert forecaster.validation_scores_ is None and forecaster.best_validation_score_ is None
        assert forecaster.best_loss_ == min(forecaster.loss_curve_)
        return
    assert forecaster.best_loss_ is None
    assert forecaster.best_validation_score_ == max(forecaster.validation_scores_)
    # The weights that are kept are the best ones: the score is minus their squared error in scaled units.
    oracle = Oracle(forecaster, [y])
    found = forecaster.model_.predict(np.array([oracle.window_of(0, y[: t + 1, None], None) for t in rest]))
    wanted = [oracle.target_of(0, t) for t in rest]
    score = -np.mean(np.square(found - wanted))
    np.testing.assert_allclose(score, forecaster.best_validation_score_, rtol=1e-9, atol=0)  # see ORACLE


def test_convergence_warning_and_early_end():
    y = np.sin(np.arange(120) / 4)
    with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
        make(max_iter=2, tol=0).fit(y)
    forecaster = make(max_iter=100, tol=10.0, n_iter_no_change=2).fit(y)  # no epoch is better by 10
    assert forecaster.n_iter_ < 100
