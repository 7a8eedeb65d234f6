"""Series of pandas and polars in, and the same out: names, dates, keys; and dates that do not agree."""

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from forecasts import fit, generator, make, walk
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit

pandas = pytest.importorskip("pandas")

DAYS = pandas.date_range("2026-01-01", periods=70, name="day")
# An index of 70 places -> the 3 places with which it goes on.
INDEXES = {
    "days": (DAYS, ["2026-03-12", "2026-03-13", "2026-03-14"]),
    "ends of months": (
        pandas.date_range("2020-01-31", periods=70, freq="ME"),
        ["2025-11-30", "2025-12-31", "2026-01-31"],
    ),
    "working days, not said": (
        pandas.DatetimeIndex(list(pandas.date_range("2026-01-01", periods=70, freq="B"))),
        ["2026-04-09", "2026-04-10", "2026-04-13"],
    ),
    "hours of a zone, where one is left out": (
        pandas.date_range("2026-03-26 04:00", periods=70, freq="h", tz="Europe/Paris"),
        list(pandas.date_range("2026-03-29 03:00", periods=3, freq="h", tz="Europe/Paris")),
    ),
    "quarters": (pandas.period_range("2009Q1", periods=70, freq="Q"), ["2026Q3", "2026Q4", "2027Q1"]),
    "every other month": (pandas.period_range("2020-01", periods=70, freq="2M"), ["2031-09", "2031-11", "2032-01"]),
    "durations": (pandas.timedelta_range("0h", periods=70, freq="30min"), ["35h", "35h30min", "36h"]),
    "numbers": (pandas.RangeIndex(100, 240, 2), [240, 242, 244]),
    "fractions": (pandas.Index(np.arange(70) / 4, name="s"), [17.5, 17.75, 18.0]),
    "labels": (pandas.Index([f"row {k}" for k in range(70)]), [70, 71, 72]),
}


@pytest.mark.parametrize("name", INDEXES)
def test_forecasts_go_on_with_the_index(name):
    index, wanted = INDEXES[name]
    values = walk(70)
    dated = hasattr(index, "freq")
    wanted = type(index)(wanted, freq=index.freq) if dated else pandas.Index(wanted)
    forecaster, plain = fit(make(), pandas.Series(values, index, name="level")), fit(make(), values)
    for horizon in (None, 3, 1):
        found = forecaster.predict(horizon)
        assert type(found) is pandas.Series and found.name == "level"
        assert (found.index == wanted[: len(found)]).all() and len(found) == (horizon or 3)
        assert found.to_numpy().tobytes() == plain.predict(horizon).tobytes()
    if name != "labels":
        assert found.index.name == index.name and type(found.index) is type(index)
    for method in ("residuals", "paths"):
        bounds = forecaster.predict_interval(coverage=0.3, method=method, random_state=0)
        arrays = plain.predict_interval(coverage=0.3, method=method, random_state=0)
        for found, a in zip(bounds, arrays, strict=True):
            assert (found.index == wanted).all() and found.to_numpy().tobytes() == a.tobytes()
    assert type(forecaster.sample(n_paths=4, random_state=0)) is np.ndarray
    copy = pickle.loads(pickle.dumps(forecaster))
    assert (copy.predict(5).index[:3] == wanted).all()
    for one, new in ((forecaster, forecaster.predict(2)), (copy, np.zeros(2))):  # as is due, and without an index
        assert one.update(new).predict(1).index[0] == wanted[2]


def test_frames_keep_their_columns():
    frame = pandas.DataFrame(walk(70, 2), DAYS, ["a", "b"])
    forecaster = fit(make(), frame)
    found = forecaster.predict()
    assert type(found) is pandas.DataFrame and list(found.columns) == ["a", "b"]
    assert [str(day.date()) for day in found.index] == INDEXES["days"][1]
    np.testing.assert_array_equal(found, fit(make(), frame.to_numpy()).predict())
    for bound in forecaster.predict_interval(coverage=0.3):
        assert list(bound.columns) == ["a", "b"] and bound.index.equals(found.index)
    single = fit(make(), frame[["a"]]).predict()
    assert type(single) is pandas.DataFrame and single.shape == (3, 1)
    np.testing.assert_array_equal(single["a"], fit(make(), frame["a"]).predict())
    numbered = fit(make(), pandas.DataFrame(walk(70, 2))).predict()
    assert list(numbered.columns) == [0, 1] and list(numbered.index) == [70, 71, 72]


def test_several_series_keep_their_names_and_ends():
    one, two = pandas.Series(walk(70), DAYS, name="x"), pandas.Series(walk(50, seed=1), name=("y", 2))
    plain = walk(60, seed=2)
    wanted = fit(make(), [one.to_numpy(), two.to_numpy(), plain]).predict()
    listed = fit(make(), [one, two, plain]).predict()
    keyed = fit(make(), {"north": one, "south": two, 3: plain})
    by_name = keyed.predict()
    assert list(by_name) == ["north", "south", 3]
    for found in (listed, list(by_name.values())):
        assert [type(a) for a in found] == [pandas.Series, pandas.Series, np.ndarray]
        assert [a.name for a in found[:2]] == ["x", ("y", 2)]
        assert found[0].index[0] == DAYS[-1] + pandas.Timedelta("1D") and list(found[1].index) == [50, 51, 52]
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(a, b)
    lower, _ = keyed.predict_interval(coverage=0.3)
    assert list(lower) == ["north", "south", 3] and lower["north"].index[0] == found[0].index[0]
    assert {key: a.shape for key, a in keyed.sample(n_paths=5).items()} == dict.fromkeys(lower, (5, 3))
    # Each goes on by its own steps.
    new = {"south": np.zeros(1), 3: np.zeros(2), "north": found[0][:2]}
    later = keyed.update(new).predict(1)
    assert later["north"].index[0] == found[0].index[2] and list(later["south"].index) == [51]
    came = keyed.predict(3)
    true = [came["north"] + [0.0, 1, 2], came["south"] + [0.0, 3, 9], plain[:3]]
    assert keyed.score({3: true[2], "north": true[0], "south": true[1]}) == keyed.score(true)
    assert keyed.score(true) != keyed.score([true[0], *true[:0:-1]])


def test_keys_that_are_not_those_of_fit():
    keyed = fit(make(), {"a": walk(70), "b": walk(70)})
    with pytest.raises(ValueError, match=r"^y: got a dict with the keys \['a'\], must have the keys \['a', 'b'\]"):
        keyed.update({"a": walk(3)})
    with pytest.raises(ValueError, match=r"^X: got a dict with the keys \['c'\]"):
        keyed.predict(X={"c": walk(3)})
    with pytest.raises(ValueError, match=r"^y: got a dict .* must have one array, or a list as in fit"):
        fit(make(), walk(70)).update({"a": walk(3)})
    both = fit(make(), {"a": walk(70), "b": walk(60)}, {"b": np.zeros((60, 1)), "a": np.ones((70, 1))})
    assert both.predict(2, {"b": np.zeros((2, 1)), "a": np.ones((3, 1))})["a"].shape == (2,)


def test_polars_names_come_back():
    polars = pytest.importorskip("polars")
    y = polars.DataFrame({"a": walk(70), "b": 2 * walk(70)})
    found = fit(make(), y).predict()
    assert type(found) is polars.DataFrame and found.columns == ["a", "b"] and found.shape == (3, 2)
    np.testing.assert_array_equal(found["a"], fit(make(), y.to_numpy()).predict()[:, 0])
    series = fit(make(), y["b"]).predict()
    assert type(series) is polars.Series and series.name == "b" and len(series) == 3


def test_dates_that_are_not_evenly_spaced_are_warned_of():
    years = pandas.period_range("1950", periods=70, freq="Y")
    for gone in (DAYS.delete(60), years.delete(5), pandas.Index([*range(60), 70])):
        y = pandas.Series(walk(len(gone)), gone)
        with pytest.warns(UserWarning, match=r"^y: its index is not evenly spaced.* forecasts are numbered"):
            forecaster = make(max_iter=60, tol=1.0).fit(y)
        assert list(forecaster.predict().index) == [len(y), len(y) + 1, len(y) + 2]
        assert list(forecaster.update(y[:4]).predict(1).index) == [len(y) + 4]
    whole = pandas.Series(walk(69), DAYS.delete(60)).asfreq("D")
    assert fit(make(missing="impute"), whole).predict(1).index[0] == DAYS[-1] + pandas.Timedelta("1D")


@pytest.mark.parametrize("index", [DAYS[::-1], DAYS.repeat(2)[:70], DAYS[[*range(68), 69, 68]]])
def test_dates_that_do_not_rise(index):
    forecaster = make()
    with pytest.raises(ValueError, match=r"^y: its dates must rise, but .* is followed by .*y\.sort_index\(\)"):
        forecaster.fit(pandas.Series(walk(70), index))
    assert not hasattr(forecaster, "n_iter_")


def test_dates_of_y_and_x_must_agree():
    y = pandas.Series(walk(70), DAYS)
    x = pandas.DataFrame(generator().normal(size=(90, 1)), pandas.date_range("2026-01-01", periods=90), ["warm"])
    with pytest.raises(ValueError, match=r"^X: has 2026-01-02 .* where 2026-01-01 .* is due, in row 0"):
        make().fit(y, x[1:71])
    forecaster = fit(make(), y, x[:70])
    wanted = fit(make(), y.to_numpy(), x[:70].to_numpy()).predict(3, x[70:].to_numpy())
    for future in (x[70:], x[70:73], x[70:].reset_index(drop=True), x[70:].to_numpy()):
        np.testing.assert_array_equal(forecaster.predict(3, future), wanted)
    before = forecaster.predict(3, x[70:])
    for call in (
        lambda: forecaster.predict(3, x),
        lambda: forecaster.predict_interval(3, x[71:], coverage=0.3),
        lambda: forecaster.sample(3, x[69:]),
        lambda: forecaster.update(y[:2].to_numpy(), x[:2]),
        lambda: forecaster.score(np.zeros(2), x[:2]),
    ):
        with pytest.raises(ValueError, match=r"^X: has 2026-0.* where 2026-03-12 .* is due, in row 0"):
            call()
    for call in (forecaster.update, forecaster.score):
        with pytest.raises(ValueError, match=r"^y: has 2026-01-05 .* where 2026-03-12"):
            call(y[4:], x[70:])
    assert forecaster.predict(3, x[70:]).equals(before)
    forecaster.update(pandas.Series([1.0, 2], x.index[70:72]), x[70:72])
    assert forecaster.predict(1, x[72:]).index[0] == x.index[72]


def test_a_search_takes_dated_series():
    y = pandas.Series(walk(120), pandas.date_range("2026-01-01", periods=120))
    search = GridSearchCV(make(), {"window": [4, 6]}, cv=TimeSeriesSplit(2, test_size=10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        plain = clone(search).fit(y.to_numpy())
        search.fit(y)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])
    assert search.predict(2).index[0] == y.index[-1] + pandas.Timedelta("1D")
    with pytest.raises(ValueError, match=r"^y: has 2026-05-02 .* where 2026-05-01 "):  # what a gap in the split gives
        search.best_estimator_.score(pandas.Series(walk(3), pandas.date_range("2026-05-02", periods=3)))


def test_columns_of_new_steps_must_be_those_of_fit():
    y = pandas.DataFrame(walk(70, 2), DAYS, ["a", "b"])
    forecaster = fit(make(), y)
    for call in (forecaster.update, lambda new: forecaster.predict(y=new)):
        with pytest.raises(ValueError, match=r"^y: has the columns \['b', 'a'\], must have those of fit"):
            call(y[["b", "a"]].set_axis(DAYS + pandas.Timedelta("70D")))


def test_a_fit_that_fails_keeps_the_dates_of_the_last():
    forecaster = fit(make(), pandas.Series(walk(70), DAYS))
    before = forecaster.predict()
    with pytest.raises(ValueError, match="at least"):
        forecaster.fit(walk(5))
    assert forecaster.predict().equals(before)
    assert type(fit(forecaster, walk(70)).predict()) is np.ndarray


def test_arrays_need_neither_pandas_nor_polars():
    program = (
        "import sys, warnings; sys.modules['pandas'] = sys.modules['polars'] = None; warnings.simplefilter('ignore'); "
        "import numpy as np; from lstmx import LSTMForecaster; "
        "f = LSTMForecaster(4, 2, hidden_size=2, max_iter=1).fit({'a': np.arange(40.0), 'b': np.arange(40.0)}); "
        "f.predict_interval(coverage=0.2); f.predict(y=np.arange(9.0)); "
        "print(sorted(f.update({'a': [1.0], 'b': [1.0]}).predict()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["['a',", "'b']"]


@pytest.mark.parametrize("freq", ["ME", "MS", "B", "W-SUN", "2h"])
def test_the_hint_for_gaps_names_the_frequency_of_most_rows(freq):
    days = pandas.date_range("2020-01-31", periods=60, freq=freq).delete([20, 21, 40])
    with pytest.warns(UserWarning, match=rf"asfreq\('{freq}'\)"):
        fit(make(), pandas.Series(walk(57), days))


def test_the_hint_for_gaps_names_no_frequency_that_would_lose_rows():
    days = pandas.DatetimeIndex(np.sort(np.random.default_rng(0).choice(10**6, 60, False)).astype("M8[s]"))
    with pytest.warns(UserWarning, match=r"asfreq\(\.\.\.\)"):
        fit(make(), pandas.Series(walk(60), days))
    months = pandas.period_range("2020-01", periods=60, freq="M").delete(20)
    with pytest.warns(UserWarning, match=r"y\.reindex\(pandas\.period_range\(y\.index\[0\], y\.index\[-1\]\)\)"):
        fit(make(), pandas.Series(walk(59), months))


def test_dates_in_a_column_are_no_variable():
    y = pandas.DataFrame({"d": DAYS, "a": walk(70)})
    with pytest.raises(TypeError, match=r"^y: its column 'd' holds dates .* drop it, or .* y\.set_index\('d'\)"):
        fit(make(), y)
    polars = pytest.importorskip("polars")
    for dates in (DAYS.date.tolist(), DAYS.to_pydatetime().tolist()):
        with pytest.raises(TypeError, match=r"^y: its column 'd' holds dates .* y\.to_pandas\(\)\.set_index\('d'\)"):
            fit(make(), polars.DataFrame({"d": dates, "a": walk(70)}))


def test_an_index_of_several_levels_is_several_series():
    index = pandas.MultiIndex.from_product([["p", "q"], DAYS], names=["id", "date"])
    long = pandas.Series(walk(140), index, name="v")
    for y in (long, long.to_frame()):
        with pytest.raises(ValueError, match=r"^y: its index has 2 levels, \['id', 'date'\], .*groupby\(level=0\)"):
            fit(make(), y)
    found = fit(make(), [g.droplevel(0) for _, g in long.groupby(level=0)]).predict()
    assert [f.index[0] for f in found] == [DAYS[-1] + DAYS.freq] * 2


def test_exogenous_columns_of_several_types():
    y, flags = walk(70), np.arange(70) % 7 == 0
    X = pandas.DataFrame({"flag": flags, "value": walk(70), "count": pandas.array(np.arange(70), dtype="Int64"),
                          "known": pandas.array(flags, dtype="boolean")})  # fmt: skip
    plain = np.column_stack([flags, X["value"], np.arange(70), flags])
    assert np.array_equal(fit(make(), y, X).predict(2, X[:2]), fit(make(), y, plain).predict(2, plain[:2]))
    for wrong, what in ((["x"] * 70, ".*, must be numbers"), (DAYS, "dates or durations")):
        with pytest.raises(TypeError, match=f"^X: its column 'bad' holds {what}"):
            fit(make(), y, X.assign(bad=wrong))
    with pytest.raises(TypeError, match=r"^X: its column 'bad' holds dates"):
        fit(make(), y, X.assign(bad=DAYS.tz_localize("UTC")))


def test_a_series_is_no_horizon():
    fitted = fit(make(), walk(70))
    for wrong in (walk(70), pandas.Series(walk(70)), [1.0, 2.0], {"a": walk(70)}):
        with pytest.raises(TypeError, match=r"^horizon: got \w+, must be an integer of at least 1; .* is y=,"):
            fitted.predict(wrong)
