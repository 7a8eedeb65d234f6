"""Estimators, data and helpers of the tests of how estimators are trained."""

import contextlib
import os
import signal
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import lstmx
from lstmx import (
    LSTMAnomalyDetector,
    LSTMClassifier,
    LSTMForecaster,
    LSTMRegressor,
    LSTMTransformer,
    training,
)

PYTHONPATH = os.path.dirname(os.path.dirname(lstmx.__file__))  # children import what is tested here
CHILD = os.environ | {"PYTHONPATH": PYTHONPATH}
RNG = np.random.default_rng(0)
RAGGED = [RNG.normal(size=(n, 2)) for n in RNG.integers(2, 8, 26)]
EVEN = RNG.normal(size=(26, 6, 2))
LABELS = RNG.permutation(np.array(["a", "b", "c"])[np.arange(26) % 3])
NUMBERS = np.array([x[:, 0].sum() for x in RAGGED])
SERIES = np.sin(np.arange(60) / 3) + 0.1 * RNG.normal(size=60)


# Small, and with all that draws random numbers or remembers something from epoch to epoch.
CASES = {
    "classifier": (
        lambda **p: LSTMClassifier(4, 2, bidirectional=True, dropout=0.3, early_stopping=True, **p),
        (RAGGED, LABELS),
        {"validation_fraction": 0.25},
    ),
    "regressor": (lambda **p: LSTMRegressor(4, 2, pooling="mean", **p), (RAGGED, NUMBERS), {"dropout": 0.2}),
    "forecaster": (lambda **p: LSTMForecaster(8, 2, hidden_size=4, differences=(1,), **p), (SERIES,), {"dropout": 0.2}),
    "detector": (lambda **p: LSTMAnomalyDetector(4, dropout=0.2, early_stopping=True, **p), (EVEN,), {}),
    "transformer": (lambda **p: LSTMTransformer(4, window=4, **p), (RAGGED,), {"dropout": 0.2}),
}
COMMON = {"batch_size": 8, "random_state": 5, "checkpoint_every": 1, "n_iter_no_change": 50}


def make(kind="regressor", **parameters):
    create, _, extra = CASES[kind]
    return create(**COMMON | extra | parameters)


def fit(estimator, *data, **more):
    """Fit; that max_iter is reached is the point of most tests here, not a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(*data, **more)


def flat(value):
    """Something that equals another if and only if all numbers have the same bits."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {name: flat(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [flat(v) for v in value]
    return repr(value)


def bits(estimator):
    """All that training has left: parameters, moments, generator, curves, scores, what predictions need."""
    config, arrays = estimator._predictor.state()
    found = {name: flat(v) for name, v in vars(estimator).items() if name.endswith("_") and not name.endswith("__")}
    return found | {"config": flat(config), "arrays": flat(arrays), "moments": flat(estimator._moments)}


def predictions(kind, estimator):
    data = CASES[kind][1]
    if kind == "classifier":
        return estimator.predict_proba(data[0])
    if kind == "forecaster":
        return np.concatenate([estimator.predict(5), *estimator.predict_interval(coverage=0.5)])
    if kind == "detector":
        return estimator.score_samples(data[0])
    return estimator.transform(data[0]) if kind == "transformer" else estimator.predict(data[0])


def assert_same(kind, one, two):
    one_bits, two_bits = bits(one), bits(two)
    assert one_bits.keys() == two_bits.keys()
    for name in one_bits:
        assert one_bits[name] == two_bits[name], name
    np.testing.assert_array_equal(predictions(kind, one), predictions(kind, two))


class Stop(Exception):
    """Something goes wrong in the middle of an epoch."""


@contextlib.contextmanager
def in_batch(epoch, batch, action):
    """Do something before an update, both counted from 0."""
    original = training.Trainer._batch

    def patched(self, part, place, outputs):
        if place == (epoch, batch):
            action()
        return original(self, part, place, outputs)

    training.Trainer._batch = patched
    try:
        yield
    finally:
        training.Trainer._batch = original


def stop():
    raise Stop


def interrupt():
    signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def interrupted(epoch, batch=1):
    with in_batch(epoch, batch, interrupt), pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        yield


def lines(display):
    return {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in display.lines_}
