"""Series with gaps: missing="impute" of the forecaster."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

import lstmx
from lstmx import LSTMForecaster

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore:coverage")
QUICK = {"window": 8, "horizon": 4, "hidden_size": 4, "max_iter": 2, "random_state": 0}
RNG = np.random.default_rng(0)
SERIES = np.sin(np.arange(120) / 3) + 5
X = RNG.normal(size=(120, 2))
GAPS = SERIES.copy()
GAPS[[0, 1, 20, 21, 50, 118, 119]] = np.nan


def lines(y):
    there = ~np.isnan(y)
    return np.interp(np.arange(len(y)), np.flatnonzero(there), y[there])


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def results(forecaster, horizon=4):
    return [forecaster.predict(horizon), *forecaster.predict_interval(horizon, coverage=0.5)]


@pytest.mark.parametrize("options", [{}, {"transform": "log"}, {"early_stopping": False}], ids=str)
def test_gaps_are_straight_lines(options):
    one = LSTMForecaster(**QUICK, **options, missing="impute").fit(GAPS)
    other = LSTMForecaster(**QUICK, **options).fit(lines(GAPS))
    assert same(results(one), results(other))
    new = np.array([np.nan, 5.2, np.nan, np.nan, 5.5])
    context = np.concatenate([lines(GAPS)[-1:], new])
    one, other = one.update(new), other.update(lines(context)[1:])
    assert all(np.allclose(a, b, rtol=1e-6) for a, b in zip(results(one), results(other), strict=True))


def test_without_gaps_nothing_changes():
    assert same(
        results(LSTMForecaster(**QUICK, missing="impute").fit(SERIES)), results(LSTMForecaster(**QUICK).fit(SERIES))
    )


def test_what_is_held_out_does_not_reach_into_training():
    """A gap from the one part to the other: the last windows of training see a repeated value, whatever comes after."""
    forecaster = LSTMForecaster(**QUICK | {"max_iter": 1}, missing="impute")
    config = {"window": 8, "block": 4, "horizon": 4, "lags": [1], "features": 1}
    forecaster._check_parameters()
    train, rest = forecaster._split(0, 120, config)
    end = train[-1] + 5
    found = []
    for far in (1.0, 100.0):
        y = GAPS.copy()
        y[end - 3 : end + 2] = np.nan
        y[end + 2 :] = far
        fitted = forecaster.fit(y)
        found.append([fitted.loss_curve_[0], fitted._predictor.arrays["y_scale"][0, 0]])
    assert found[0] == found[1] and len(rest)


def test_several_series_exogenous_variables_and_frames():
    gappy = X.copy()
    gappy[[3, 60, 119], [0, 1, 0]] = np.nan
    full = np.column_stack([lines(column) for column in gappy.T])
    many = [GAPS, GAPS[::-1].copy()]
    one = LSTMForecaster(**QUICK, missing="impute").fit(many, [gappy, gappy])
    other = LSTMForecaster(**QUICK).fit([lines(y) for y in many], [full, full])
    future = np.ones((2, 4, 2))
    assert same(one.predict(4, list(future)), other.predict(4, list(future)))
    future[1, 1, 0] = np.nan  # between 1 and 1
    assert same(one.predict(4, list(future)), other.predict(4, list(np.ones((2, 4, 2)))))


def test_a_score_counts_what_is_there():
    forecaster = LSTMForecaster(**QUICK, missing="impute").fit(GAPS)
    true = np.array([5.0, np.nan, 5.5, 5.7])
    found = forecaster.predict(4)[[0, 2, 3]]
    there = true[[0, 2, 3]]
    wanted = 1 - ((there - found) ** 2).sum() / ((there - there.mean()) ** 2).sum()
    assert forecaster.score(true) == pytest.approx(wanted)
    with pytest.raises(ValueError, match="no step without a missing value"):
        forecaster.score([np.nan] * 4)


def test_windows_without_a_target_are_left_out():
    y = GAPS.copy()
    y[30:60] = np.nan
    origins = np.arange(9, 100)
    from lstmx.estimators._forecaster import _with_targets

    recursive = LSTMForecaster(**QUICK, strategy="recursive", missing="impute").fit(y)  # a block is a step
    assert np.isfinite(recursive.predict(9)).all()
    train, _ = _with_targets(y[:, None], (origins, origins[:0]), 4)
    assert set(origins) - set(train) == set(range(29, 56))


def test_it_is_saved_and_pickled(tmp_path):
    forecaster = LSTMForecaster(**QUICK, missing="impute").fit(GAPS)
    forecaster.save(tmp_path / "f.safetensors")
    new = [5.1, np.nan, 5.3]
    loaded = lstmx.load(tmp_path / "f.safetensors")
    wanted = results(pickle.loads(pickle.dumps(forecaster)).update(new))
    assert same(results(loaded.update(new)), wanted)
    code = "import lstmx, sys; lstmx.load(sys.argv[1]).update([5.1, float('nan')]); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "f.safetensors")], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
    LSTMForecaster(**QUICK).fit(SERIES)._predictor.save(tmp_path / "old.safetensors")
    assert b"missing" not in (tmp_path / "old.safetensors").read_bytes(), "as before there was such a key"


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (GAPS, {}, r'^y: contains NaN or infinity at step 0; fill it, or set missing="impute"'),
        (np.where(SERIES > 5.5, np.inf, SERIES), {"missing": "impute"}, "^y: contains infinity at step"),
        (np.full(120, np.nan), {"missing": "impute"}, "^y: is missing in all of the part for training"),
        (np.where(np.arange(120) < 100, SERIES, np.nan), {"missing": "impute"}, "in all of the part for validation"),
        (np.column_stack([GAPS, np.full(120, np.nan)]), {"missing": "impute"}, "^y: variable 1 has no value"),
        (GAPS, {"missing": "drop"}, "^missing: got 'drop', must be"),
    ],
)
def test_errors(y, options, message):
    with pytest.raises(ValueError, match=message):
        LSTMForecaster(**QUICK, **options).fit(y)
