"""LSTMForecaster with a transform: what it learns from, what it gives back, files and pickles, errors."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

import lstmx

pytest.importorskip("sklearn")
from forecasts import fit, generator, make, parts, walk
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit

from lstmx import LSTMForecaster
from lstmx.predictors.transforms import Transform

CUBE = (np.cbrt, lambda z: z**3)
FALLING = (np.negative, np.negative)


def positive(steps, variables=None, seed=0):
    return np.exp(walk(steps, variables, seed, scale=0.05) / (1 if variables is None else 10.0 ** np.arange(variables)))


def transformed(name, y, lambdas=None):
    """The transform of Box and Cox by its own words, but for its shift and factor."""
    return np.log(y) if name == "log" else np.where(lambdas == 0, np.log(y), y**lambdas)


def results(forecaster, X=None):
    """Everything that is in the units of y."""
    return [
        forecaster.predict(5, X),
        *forecaster.predict_interval(3, X, coverage=0.5),
        *forecaster.predict_interval(5, X, coverage=0.5, method="paths", n_paths=20, random_state=1),
        forecaster.sample(5, X, n_paths=4, random_state=1),
    ]


@pytest.mark.parametrize("variables", [None, 2])
@pytest.mark.parametrize("name", ["log", CUBE], ids=["log", "pair"])
@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_it_is_a_forecast_of_the_transformed_series_transformed_back(strategy, name, variables):
    forward, inverse = (np.log, np.exp) if name == "log" else name
    y, x = positive(90, variables), generator().normal(size=(90, 1))
    with_it = fit(make(strategy=strategy, differences=(1,), transform=name, validation_fraction=0.3), y[:80], x[:80])
    without = fit(make(strategy=strategy, differences=(1,), validation_fraction=0.3), forward(y[:80]), x[:80])
    for _ in range(2):
        for found, wanted in zip(results(with_it, x[80:86]), results(without, x[80:86]), strict=True):
            np.testing.assert_allclose(found, inverse(wanted), rtol=1e-14)
        with_it.update(y[80:87], x[80:87])
        without.update(forward(y[80:87]), x[80:87])
    assert with_it.score(y[87:], x[87:]) != without.score(forward(y[87:]), x[87:])
    assert with_it.lambdas_ is None


def test_box_and_cox_take_lambda_from_the_training_part_of_each_series():
    stats = pytest.importorskip("scipy.stats")
    series = [positive(150, 2, seed=1) ** 2, positive(120, 2, seed=2) + 3]
    forecaster = fit(make(transform="boxcox"), series)
    again = fit(make(transform="boxcox"), [np.concatenate([a[:-3], a[-3:] * 50]) for a in series])
    np.testing.assert_array_equal(again.lambdas_, forecaster.lambdas_)  # what is held out has no say
    assert forecaster.lambdas_.shape == (2, 2)
    for y, lambdas in zip(series, forecaster.lambdas_, strict=True):
        train = y[: parts(forecaster, len(y))[0][-1] + forecaster.horizon + 1]
        for values, found in zip(train.T, lambdas, strict=True):
            best = max(stats.boxcox_llf(p, values) for p in np.linspace(0, 1, 101))
            assert best - stats.boxcox_llf(found, values) < 0.01 and 0 <= found <= 1
    changed = [transformed("boxcox", a, p) for a, p in zip(series, forecaster.lambdas_, strict=True)]
    other = fit(make(), changed)
    for found, wanted, p in zip(forecaster.predict(4), other.predict(4), forecaster.lambdas_, strict=True):
        for values, result, power in zip(wanted.T, found.T, p, strict=True):
            back = np.maximum(values, 0) ** (1 / power) if power else np.exp(values)
            np.testing.assert_allclose(result, back, rtol=1e-12)


def test_lambda_of_samples_whose_power_is_known():
    pytest.importorskip("scipy")
    normal = generator().normal(size=400) / 5 + 3
    for power, y in ((0, np.exp(normal)), (0.5, normal**2), (1, normal), (1, np.full(400, 7.0))):
        found = fit(make(transform="boxcox", max_iter=1), y).lambdas_[0, 0]
        # The likelihood of 360 values leaves some tenths open.
        assert found == pytest.approx(power, abs=0.4) and (power or found < 0.4)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("power", [0.0, 0.01, 0.3, 0.5, 1.0])
def test_the_inverse_is_exact(power, scale):
    y = scale * np.exp(generator().normal(size=(1000, 1)))
    for transform in (Transform("boxcox", np.array([[power]])), Transform("log")):
        back = transform.inverse(transform.forward(y, 0, "y")[None])[0]
        # The logarithm of 1e12 is 28, and its rounding is the result's, at a power of 0.01 times 100.
        np.testing.assert_allclose(back, y, rtol=3e-14)
    below = Transform("boxcox", np.array([[0.5]])).inverse(np.array([[[-0.1]]]))
    assert below == 0  # a forecast that no value could have led to


def test_bounds_of_a_decreasing_pair_are_in_order():
    y = walk(120)
    rising = fit(make(transform=(np.positive, np.positive)), y).predict_interval(coverage=0.5)
    forecaster = fit(make(transform=FALLING), y)
    for arguments in ({}, {"method": "paths", "random_state": 0}):
        lower, upper = forecaster.predict_interval(coverage=0.5, **arguments)
        assert (lower < upper).all()
    # 1 / y falls as well
    lower, upper = fit(make(transform=(np.reciprocal, np.reciprocal)), positive(120)).predict_interval(coverage=0.5)
    assert (lower < upper).all()
    assert (rising[0] < rising[1]).all()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.r_[np.ones(40), 0.0, np.ones(30)], r"^y: got 0 at step 40, must be above 0 for transform='NAME'"),
        ([positive(70), np.r_[positive(60), -2.5, 1.0]], r"^y\[1\]: got -2\.5 at step 60, must be above 0"),
        (np.stack([positive(70), np.r_[np.ones(69), -1]], axis=1), "^y: got -1 at step 69, variable 1, must be above"),
    ],
)
@pytest.mark.parametrize("name", ["log", "boxcox"])
def test_values_that_have_no_logarithm_are_named(name, y, message):
    with pytest.raises(ValueError, match=message.replace("NAME", name)):
        make(transform=name).fit(y)


def test_updates_that_do_not_fit_lose_nothing():
    forecaster = fit(make(transform="log"), [positive(70), positive(80)])
    before = forecaster.predict()
    with pytest.raises(ValueError, match=r"^y\[1\]: got -1 at step 2, must be above 0 for transform='log'; add"):
        forecaster.update([np.ones(4), np.array([1, 2, -1.0])])
    np.testing.assert_array_equal(forecaster.predict(), before)
    single = fit(make(transform=(np.log, np.exp)), positive(70))
    message = r"^y: transform gives -inf for 0 at step 1; give a function"
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match=message):
        single.update(np.array([1.0, 0.0]))


@pytest.mark.parametrize(
    ("transform", "error", "message"),
    [
        ("sqrt", ValueError, "^transform: got 'sqrt', must be one of 'log', 'boxcox'"),
        (np.log, TypeError, "^transform: got <ufunc 'log'>, must be None, .* a pair of functions"),
        ((np.log,), TypeError, "^transform: got"),
        ((np.log, 3), TypeError, "^transform: got"),
        (0.5, TypeError, "^transform: got 0.5"),
        ((np.log, np.exp2), ValueError, r"^transform: its inverse gives .* for .* at step \d+ of y; give"),
        ((np.log, lambda z: z * np.nan), ValueError, "^transform: its inverse gives nan for"),
        ((np.sum, np.exp), ValueError, r"^transform: its function gave shape \(\) for \(70,\); give functions that"),
        ((lambda y: np.where(y > 1, y, y - 1e3), lambda z: np.where(z > 0, z, z + 1e3)), None, None),
        ((lambda y: 1 / (y - 1), lambda z: 1 / z + 1), ValueError, "^transform: neither rises nor falls"),
    ],
)
def test_transforms_that_are_none(transform, error, message):
    y = positive(70)
    if error is None:
        fit(make(transform=transform), y)
        return
    with pytest.raises(error, match=message):
        make(transform=transform).fit(y / np.median(y) + 1e-3)


def test_an_inverse_that_is_not_defined_for_a_forecast_is_an_error():
    y = np.arange(60) / 100
    forecaster = fit(make(transform=(np.positive, lambda z: np.where(z > y[-1], np.nan, z)), differences=(1,)), y)
    with pytest.raises(ValueError, match=r"^transform: its inverse gives NaN for 0\.6, to which a forecast has come"):
        forecaster.predict()


# Files and pickles.


@pytest.mark.parametrize("name", ["log", "boxcox"])
def test_a_file_needs_neither_scipy_nor_scikit_learn(name, tmp_path):
    path, y = tmp_path / "forecaster.safetensors", positive(90)
    forecaster = fit(make(transform=name, validation_fraction=0.3), y)
    forecaster.save(path)
    code = """
import sys, lstmx
sys.modules.update(scipy=None, sklearn=None)
forecaster = lstmx.load(sys.argv[1])
forecaster.update([1.5, 2.5])
print(*forecaster.predict(), *forecaster.predict_interval(coverage=0.5)[1])
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    forecaster.update([1.5, 2.5])
    wanted = [*forecaster.predict(), *forecaster.predict_interval(coverage=0.5)[1]]
    assert [float(number) for number in done.stdout.split()] == wanted


def test_a_pair_of_functions_is_pickled_and_not_saved(tmp_path):
    y = positive(80)
    forecaster = fit(make(transform=(np.log1p, np.expm1)), y)
    for save in (forecaster.save, forecaster._predictor.save):
        with pytest.raises(TypeError, match=r"^transform: functions \(log1p, expm1\) cannot be saved .* pickle"):
            save(tmp_path / "file")
    assert not list(tmp_path.iterdir())
    wanted = results(forecaster)
    for copy in (pickle.loads(pickle.dumps(forecaster)), pickle.loads(pickle.dumps(forecaster._predictor))):
        for a, b in zip(results(copy), wanted, strict=True):
            np.testing.assert_array_equal(a, b)
    local = fit(make(transform=(lambda v: np.log(v), lambda v: np.exp(v))), y)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(local)
    other = clone(local)
    assert other.transform[0] is local.transform[0] and not hasattr(other, "n_iter_")


def test_a_file_with_functions_or_a_lambda_out_of_range_is_refused(tmp_path):
    pytest.importorskip("scipy")
    predictor = fit(make(transform="boxcox", max_iter=1), positive(70))._predictor
    for config, arrays, message in (
        ({"transform": "functions"}, {}, "transform: a pair of functions is in no file"),
        ({"transform": "sqrt"}, {}, "transform: got 'sqrt'"),
        ({}, {"y_lambda": np.array([[1.5]])}, "y_lambda: 1 of 1 values, the first 1.5, are not finite and from 0 to 1"),
    ):
        state = predictor.state()
        lstmx.storage.write(tmp_path / "file", {"class": "Forecaster"} | state[0] | config, state[1] | arrays)
        with pytest.raises(ValueError, match=message):
            lstmx.load(tmp_path / "file")


def test_a_fit_with_functions_goes_on_from_its_checkpoint(tmp_path):
    y, path = positive(70), tmp_path / "run.safetensors"

    def forecaster(**more):  # functions made anew, as in another process
        pair = (lambda v: np.log(v)), (lambda v: np.exp(v))
        return make(**{"transform": pair, "max_iter": 6, "checkpoint": path, "checkpoint_every": 1} | more)

    whole = fit(forecaster(checkpoint=None), y).predict()
    fit(forecaster(max_iter=3), y)
    np.testing.assert_array_equal(fit(forecaster(resume=True), y).predict(), whole)
    with pytest.raises(ValueError, match=r"^resume: the checkpoint was written with other data"):
        forecaster(resume=True, transform=None).fit(y)


def test_a_search_over_transforms_runs_and_prefers_the_right_one():
    t = np.arange(160)
    y = np.exp(t / 30 + 0.3 * np.sin(2 * np.pi * t / 8) + 0.02 * generator().normal(size=160))
    forecaster = LSTMForecaster(16, 8, differences=(8,), hidden_size=4, max_iter=8, random_state=0)
    search = GridSearchCV(forecaster, {"transform": [None, "log"]}, cv=TimeSeriesSplit(2, test_size=8))
    assert fit(search, y).best_params_ == {"transform": "log"}
