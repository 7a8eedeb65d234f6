"""LSTMForecaster against an oracle: forecasts, what it is trained on, updates, what it learns."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstmx import training

pytest.importorskip("sklearn")
from forecasts import ORACLE, ROUNDING, Oracle, differenced, fit, generator, make, parts, walk

from lstmx import LSTMForecaster
from lstmx.predictors.forecaster import difference, integrate, lead

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
    with pytest.raises(ValueError, match=r"^X\[1\]: .*next 8 steps, \(8, 3\); give fewer steps or more rows"):
        forecaster.predict(8, [future[0], future[1][:7]])


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


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_fewer_steps_than_the_horizon_need_no_more_rows_of_future_variables(strategy):
    y, x = walk(90), generator(1).normal(size=(100, 2))
    forecaster = fit(make(strategy=strategy, horizon=4, validation_fraction=0.3), y, x[:90])
    oracle, future = Oracle(forecaster, [y], [x[:90]]), x[90:]
    for steps in (1, 3, 4, 6):  # below, at and beyond a block
        # What the network reads beyond the rows given is like the last of them.
        wanted = oracle.forecast(0, steps, np.concatenate([future[:steps], np.tile(future[steps - 1], (4, 1))]))
        found = forecaster.predict(steps, future[:steps])
        np.testing.assert_allclose(found, wanted[:, 0], **ORACLE["float64"])
        for method in (forecaster.predict_interval, forecaster.sample):
            assert np.shape(method(min(steps, 4), future[:steps])) in ((2, min(steps, 4)), (100, min(steps, 4)))
    # Rows that are given are read as in training.
    np.testing.assert_array_equal(forecaster.predict(3, future[:4]), forecaster.predict(4, future[:4])[:3])
    assert forecaster.trace(future[:1])[0].f[0, 0].shape == (1, 6, 4)
    with pytest.raises(ValueError, match=r"^X: got shape \(2, 2\), must be .* next 3 steps, \(3, 2\)"):
        forecaster.predict(3, future[:2])


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
    rows, context, targets, weights = data.batch(np.arange(len(data.inputs.lengths)))
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
from lstmx.data import batches

warnings.simplefilter("ignore")
steps, window, count = 50_000, 1000, int(sys.argv[1])
if count:
    whole = batches.plan
    batches.plan = lambda lengths, size, shuffle, rng: whole(lengths, size, shuffle, rng)[:count]
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
