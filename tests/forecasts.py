"""An oracle for LSTMForecaster: its whole pipeline written out in NumPy.

It takes nothing from the forecaster but `model_`: splitting, differencing, scaling, windows, leading exogenous
variables, the recursion block by block and the undoing of it all are its own, one number at a time.
"""

import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.exceptions import ConvergenceWarning

from lstmx import LSTMForecaster

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
