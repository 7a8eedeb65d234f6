"""Forecasts of series that were not in fit, against an oracle in NumPy."""

import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")
from forecasts import ORACLE, ROUNDING, Oracle, differenced, fit, generator, make, walk

import lstmx
from lstmx.predictors.transforms import likeliest


def of_others(forecaster, y, horizon, x=None, future=None):
    """What the oracle says of a series with a scale of its own."""
    y = np.asarray(y, np.float64).reshape(len(y), -1)
    z = differenced(y, tuple(forecaster.differences))
    oracle = Oracle(forecaster, forecaster.seen, None if x is None else forecaster.seen_x)
    oracle.mean, oracle.scale = [z.mean(axis=0)], [z.std(axis=0)]
    return oracle.forecast(0, horizon, future, y, x)


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
@pytest.mark.parametrize("differences", [(), (1,), (4, 1)])
def test_other_series_are_forecast_with_a_scale_of_their_own(strategy, differences):
    forecaster = fit(make(strategy=strategy, differences=differences), walk(80, 2))
    forecaster.seen = [walk(80, 2)]
    for steps in (6 + sum(differences) + (differences == ()), 40):
        other = 1000 * walk(steps, 2, seed=5) + 7
        found = forecaster.predict(5, y=other)
        wanted = of_others(forecaster, other, 5)
        size = np.abs(wanted).max()
        np.testing.assert_allclose(found / size, wanted / size, **ORACLE["float64"])


def test_exogenous_variables_begin_with_the_steps_of_y():
    y, x = walk(80), generator().normal(size=(80, 2))
    forecaster = fit(make(differences=(1,)), y, x)
    forecaster.seen, forecaster.seen_x = [y], [x]
    other, more = 50 * walk(30, seed=5), generator(1).normal(size=(35, 2))
    found = forecaster.predict(4, more[:34], y=other)
    # The direct strategy reads whole blocks of 3: two here, of which rows 5 and 6 are like row 4.
    future = np.concatenate([more[30:34], more[33:34], more[33:34]])
    wanted = of_others(forecaster, other, 4, more[:30], future)[:, 0]
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
    several = forecaster.predict(4, [more[:34], more[:31]], y=[other, other[:27]])
    np.testing.assert_array_equal(several[0], found)
    np.testing.assert_array_equal(several[1], forecaster.predict(4, more[:31], y=other[:27]))


def test_the_series_of_fit_are_as_they_were():
    forecaster = fit(make(differences=(1,)), [walk(80), walk(60, seed=1)])
    before = forecaster.predict()
    other = forecaster.predict(y=walk(30, seed=3))
    assert other.shape == (3,) and isinstance(before, list)  # as y is given, not as that of fit
    for a, b in zip(forecaster.predict(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    stacked = forecaster.predict(y=np.stack([walk(30, 1, seed=3), walk(30, 1, seed=4)]))
    np.testing.assert_array_equal(stacked[0], other)


def test_a_series_of_fit_given_whole_is_forecast_alike_but_for_its_scale():
    y = np.sin(np.arange(300) / 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forecaster = make(window=30, hidden_size=12, max_iter=40).fit(y)
    np.testing.assert_allclose(forecaster.predict(y=y), forecaster.predict(), rtol=0, atol=0.02)
    shifted = forecaster.predict(y=1000 * y + 5e4)  # the same in other units
    np.testing.assert_allclose((shifted - 5e4) / 1000, forecaster.predict(y=y), rtol=0, atol=1e-9)


def test_without_scaling_there_is_none():
    forecaster = fit(make(standardize=False), walk(80))
    forecaster.seen = [walk(80)]
    other = walk(30, seed=2)
    oracle = Oracle(forecaster, forecaster.seen)
    wanted = oracle.forecast(0, 4, y=other[:, None])[:, 0]
    np.testing.assert_allclose(forecaster.predict(4, y=other), wanted, **ORACLE["float64"])


def test_intervals_and_paths_are_in_units_of_the_other_series():
    forecaster = fit(make(validation_fraction=0.4), walk(120))
    other = walk(40, seed=4)
    arguments = {"coverage": 0.5, "random_state": 0}
    for method in ("residuals", "paths"):
        lower, upper = forecaster.predict_interval(y=other, method=method, **arguments)
        wide = forecaster.predict_interval(y=100 * other, method=method, **arguments)
        np.testing.assert_allclose(wide, [100 * lower, 100 * upper], rtol=1e-8)
        assert (lower < upper).all()
    errors = forecaster._predictor.arrays["residuals"]
    lower, upper = forecaster.predict_interval(y=other, **arguments)
    place = int((len(errors) + 1) * 0.25 + 1e-9)
    ordered = np.sort(errors[:, :, 0], axis=0)
    middle, scale = forecaster.predict(y=other), other.std()
    np.testing.assert_allclose(lower, middle + scale * ordered[place - 1], **ROUNDING)
    np.testing.assert_allclose(upper, middle + scale * ordered[len(errors) - place], **ROUNDING)
    paths = forecaster.sample(4, y=[other, other], n_paths=3, random_state=0)
    assert [p.shape for p in paths] == [(3, 4), (3, 4)]


@pytest.mark.parametrize("transform", ["log", "boxcox", (np.log1p, np.expm1)])
def test_transforms(transform):
    pytest.importorskip("scipy")
    y = np.exp(walk(80, scale=0.1) - 5)
    forecaster = fit(make(transform=transform, differences=(1,)), y)
    other = generator(2).normal(3, 0.5, size=60) ** 2 if transform == "boxcox" else np.exp(walk(60, seed=2, scale=0.1))
    power = likeliest(other) if transform == "boxcox" else None
    forward, inverse = (np.log, np.exp) if transform == "log" else (np.log1p, np.expm1)
    if transform == "boxcox":
        assert 0 < power < 1
        forward, inverse = lambda v: v**power, lambda z: z ** (1 / power)
    forecaster.seen = [forward(y)]
    wanted = inverse(of_others(forecaster, forward(other), 4)[:, 0])
    np.testing.assert_allclose(forecaster.predict(4, y=other), wanted, rtol=1e-9)
    lower, upper = forecaster.predict_interval(y=other, coverage=0.2)
    assert (lower < upper).all() and (lower > 0).all()


def test_the_likeliest_power_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for seed in range(5):
        values = np.abs(generator(seed).normal(size=200)) ** (seed + 1) + 0.1
        power = stats.boxcox(values)[1]
        assert abs(likeliest(values) - min(max(power, 0), 1)) < 0.0051
    assert likeliest(np.ones(5)) == likeliest(np.array([1.0, 0.0])) == 1.0


def test_missing_values():
    forecaster = fit(make(missing="impute", differences=(1,)), walk(80), np.zeros((80, 1)))
    other, x = walk(30, seed=2), generator().normal(size=(33, 1))
    holes, gaps = other.copy(), x.copy()
    holes[10], gaps[12] = np.nan, np.nan
    other[10], x[12] = (other[9] + other[11]) / 2, (x[11] + x[13]) / 2
    np.testing.assert_allclose(forecaster.predict(y=holes, X=gaps), forecaster.predict(y=other, X=x), **ROUNDING)
    with pytest.raises(ValueError, match=r"^y: contains NaN"):
        fit(make(), walk(80)).predict(y=holes)


def test_a_loaded_forecaster_does_the_same(tmp_path):
    forecaster = fit(make(differences=(1,)), walk(80), generator().normal(size=(80, 1)))
    forecaster.save(tmp_path / "model")
    loaded = lstmx.load(tmp_path / "model")
    other, x = walk(30, seed=2), generator().normal(size=(33, 1))
    assert loaded.predict(3, x, y=other).tobytes() == forecaster.predict(3, x, y=other).tobytes()
    one, two = (f.trace(x, y=other)[0].h[0, 0] for f in (loaded, forecaster))
    assert one.tobytes() == two.tobytes() and one.shape == (1, 6, 4)


@pytest.mark.parametrize(
    ("y", "X", "message"),
    [
        (walk(6), None, r"^y: got 6 steps, must be at least 7: a window of 6 and differences of 1"),
        ([walk(9), walk(6)], None, r"^y\[1\]: got 6 steps, must be at least 7"),
        (walk(9, 2), None, r"^y: got 2 variables, must be 1, as in fit"),
        (walk(9), np.zeros((12, 1)), r"^X: got exogenous variables, but the model was fitted without"),
        (np.full(9, np.inf), None, r"^y: contains NaN or infinity"),
        (np.array([1e200, -1e200] * 9), None, r"^y: has values up to 1e\+200, too large to scale"),
        ([], None, r"^y: "),
    ],
)
def test_what_does_not_fit(y, X, message):
    with pytest.raises(ValueError, match=message):
        fit(make(differences=(1,)), walk(80)).predict(y=y, X=X)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (None, r"^X: must be the exogenous variables of the steps of y and of those to come"),
        (np.zeros((9, 1)), r"^X: got shape \(9, 1\), must be \(9 \+ the horizon, 1\)"),
        (np.zeros((12, 2)), r"^X: got shape \(12, 2\)"),
        (np.zeros((11, 1)), r"^X: got shape \(2, 1\), must be .* of the next 3 steps, \(3, 1\) behind those of y"),
    ],
)
def test_exogenous_variables_that_do_not_fit(X, message):
    with pytest.raises(ValueError, match=message):
        fit(make(), walk(80), np.zeros((80, 1))).predict(y=walk(9), X=X)
