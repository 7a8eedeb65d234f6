"""Models, data and helpers of the tests of training."""

import os

import numpy as np

import lstmx
from lstmx import (
    LSTM,
    Dense,
    Dropout,
    Embedding,
    Last,
    MeanPool,
    Sequential,
)
from lstmx.data.batches import Data
from lstmx.data.targets import read_targets, read_weights
from lstmx.losses import get_loss
from lstmx.training import Trainer

CHILD = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(lstmx.__file__))}  # imports what is tested here


def generator(seed=0):
    return np.random.default_rng(seed)


def regression(n=24, steps=6, seed=0):
    x = generator(seed).normal(size=(n, steps, 2))
    return x, x[:, :, 0].mean(axis=1) - x[:, -1, 1]


def small(*, pool=Last, outputs=1, activation=None, dropout=0.0, dtype="float32", seed=0):
    layers = [LSTM(2, 5), *([Dropout(dropout)] if dropout else []), *([pool()] if pool else [])]
    return Sequential([*layers, Dense(5, outputs, activation)], random_state=seed).astype(dtype)


def bits(model):
    return {name: p.copy() for name, p in model.parameters().items()}


def same(one, two):
    assert list(one) == list(two)
    return all(one[name].dtype == two[name].dtype and (one[name] == two[name]).all() for name in one)


def scripted(scores):
    """A metric that follows a script, called once an epoch for training data."""
    calls = iter(scores)

    def score(target, prediction):
        return next(calls)

    return score


def trainer(model, data, validation=None, *, optimizer, state=None, early_stopping=None, seed=0, callbacks=()):
    def read(x, y):
        inputs = model._read(x, None)
        targets = read_targets(y, inputs, model.output_size, "mse", model.per_step, model.dtype)
        return Data(inputs, targets, read_weights(None, None, targets, inputs, model.output_size, model.dtype))

    return Trainer(
        model, read(*data), get_loss("mse", "linear"), optimizer, batch_size=4, rng=generator(seed), state=state,
        early_stopping=early_stopping, validation=None if validation is None else read(*validation),
        callbacks=callbacks,
    )  # fmt: skip


def token_model():
    layers = [Embedding(8, 3), Dropout(0.2), LSTM(3, 5, 2, dropout=0.3), MeanPool(), Dense(5, 1)]
    return Sequential(layers, random_state=0)
