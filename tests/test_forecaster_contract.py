"""LSTMForecaster as an estimator: data that do not fit, forms of data, parameters, repeated fits."""

import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import lstmx

pytest.importorskip("sklearn")
from forecasts import ORACLE, Oracle, fit, generator, make, parts, walk
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from lstmx import LSTMForecaster

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
        for other in found[1:]:  # which come as they went in: test_forecaster_frames.py
            assert isinstance(other, list) == isinstance(found[0], list)
            for a, b in zip(np.asarray(other), np.asarray(found[0]), strict=True):
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
        for a in found if isinstance(found, list) else [found]:
            assert np.asarray(a).dtype == np.float32, type(form)
    for form in (y.astype(np.float16), y.astype(np.int32), [y, y.astype(np.float64)], y.tolist()):
        found = fit(make(max_iter=1), form).predict()
        assert all(a.dtype == np.float64 for a in found), type(form)


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
