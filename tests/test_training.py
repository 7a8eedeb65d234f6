"""Training: it learns, it repeats itself bit by bit, and one step is the step that the formulas give.

Tolerances. STEP: one float64 training step against NumPy, sums of up to a few hundred terms in another order: 1e-12.
"""

import copy
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import numpy as np
import pytest

import lstmx
from lstmx import (
    LSTM,
    SGD,
    Adam,
    Callback,
    Dense,
    Dropout,
    EarlyStopping,
    Embedding,
    Last,
    MeanPool,
    Sequential,
    reference,
)
from lstmx.data.batches import Data
from lstmx.data.targets import read_targets, read_weights
from lstmx.functional.read import read_inputs
from lstmx.losses import get_loss
from lstmx.training import Progress, Trainer, draw_keys, get_callbacks, get_early_stopping

CHILD = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(lstmx.__file__))}  # imports what is tested here

STEP = {"rtol": 1e-12, "atol": 1e-14}


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


class Recorder(Callback):
    """What is called, in order."""

    def __init__(self):
        self.events = []

    def on_train_begin(self, trainer):
        self.events.append("begin")

    def on_epoch_begin(self, trainer, epoch):
        self.events.append(("epoch", epoch))

    def on_batch_end(self, trainer, batch, loss):
        assert np.isfinite(loss)
        self.events.append(("batch", batch))

    def on_epoch_end(self, trainer, epoch, logs):
        self.events.append(("end", epoch, sorted(logs)))

    def on_train_end(self, trainer):
        self.events.append("over")


# It learns.


def test_learns_the_adding_problem():
    """Two marked numbers among 10 are to be added (Hochreiter and Schmidhuber 1997). The mean guesses to 0.17."""
    rng = generator(1)
    x = np.zeros((1200, 10, 2))
    x[:, :, 0] = rng.uniform(size=x.shape[:2])
    marks = np.argsort(rng.uniform(size=(1200, 10)), axis=1)[:, :2]
    np.put_along_axis(x[:, :, 1], marks, 1, axis=1)
    y = (x[:, :, 0] * x[:, :, 1]).sum(axis=1)
    model = Sequential([LSTM(2, 12), Last(), Dense(12, 1)], random_state=0)
    options = {"optimizer": Adam(0.03), "epochs": 15, "batch_size": 20, "clip_norm": 1.0, "verbose": 0}
    history = model.fit(x[:1000], y[:1000], random_state=0, **options)
    error = np.mean((model.predict(x[1000:])[:, 0] - y[1000:]) ** 2)
    assert y.var() > 0.14 and error < 0.01 and history["loss"][-1] < 0.05 * history["loss"][0]


def test_remembers_the_first_token():
    """The class is the first token; nine random others follow, which must be ignored."""
    rng = generator(0)
    tokens = rng.integers(4, size=(400, 10))
    tokens[:, 1:] += 4
    layers = [Embedding(8, 4), LSTM(4, 12), Last(), Dense(12, 4, "softmax")]
    model = Sequential(layers, random_state=0)
    options = {"loss": "categorical_crossentropy", "optimizer": Adam(0.02), "metrics": ["accuracy"]}
    history = model.fit(tokens[:300], tokens[:300, 0], epochs=12, verbose=0, random_state=0, **options)
    held = model.predict(tokens[300:]).argmax(axis=1) == tokens[300:, 0]
    assert history["accuracy"][0] < 0.6 and history["accuracy"][-1] == 1 and held.mean() == 1


def test_learns_parity_of_every_prefix():
    """An output a step, of ragged sequences: the parity so far. No network without memory can."""
    rng = generator(0)
    x = [rng.integers(2, size=(n, 1)) for n in rng.integers(3, 12, size=400)]
    y = [np.cumsum(a[:, 0]) % 2 for a in x]
    model = Sequential([LSTM(1, 8), Dense(8, 1, "sigmoid")], random_state=0)
    options = {"loss": "binary_crossentropy", "optimizer": Adam(0.03), "epochs": 25, "batch_size": 20}
    model.fit(x[:300], y[:300], verbose=0, random_state=0, **options)
    right = [((p[:, 0] > 0.5) == t).mean() for p, t in zip(model.predict(x[300:]), y[300:], strict=True)]
    assert np.mean(right) > 0.99


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam", "adamw"])
def test_every_loss_falls_with_every_optimiser(loss, optimizer):
    x, y = regression(64)
    rate = {"sgd": 0.2, "rmsprop": 0.01}.get(optimizer, 0.03)
    optimizer = type(lstmx.optim.get_optimizer(optimizer))(rate)
    history = small().fit(x, y, loss=loss, optimizer=optimizer, epochs=25, batch_size=16, verbose=0, random_state=0)
    assert history["loss"][-1] < 0.6 * history["loss"][0]


# The same bits.


def ragged_task():
    rng = generator(3)
    x = [rng.normal(size=(n, 2)) for n in rng.integers(0, 9, size=30)]
    return x, np.array([a.sum() for a in x])


FIT = {"epochs": 3, "batch_size": 8, "verbose": 0, "optimizer": Adam(0.01), "validation_split": 0.2, "clip_norm": 1.0}


def fitted(seed=0, data=None, **options):
    model = small(dropout=0.3)
    x, y = ragged_task() if data is None else data
    history = model.fit(x, y, random_state=seed, **(FIT | options))
    return bits(model), history.history


def test_same_seed_same_bits_and_another_seed_others():
    one, history = fitted()
    again, history_again = fitted()
    assert same(one, again) and history == history_again
    assert not same(one, fitted(seed=1)[0])


@pytest.mark.parametrize("shuffle", [True, "exact", False])
def test_any_number_of_threads_gives_the_same_bits(shuffle):
    rng = generator(0)
    data = rng.normal(size=(64, 40, 2)), rng.normal(size=64)
    results = []
    for n in (1, 2):
        with lstmx.num_threads(n):
            results.append(fitted(data=data, batch_size=32, shuffle=shuffle))
    assert same(results[0][0], results[1][0]) and results[0][1] == results[1][1]


@pytest.mark.parametrize("verbose", [1, 2])
def test_talking_does_not_change_the_bits(verbose, capfd):
    quiet, history = fitted()
    loud, history_loud = fitted(verbose=verbose)
    assert same(quiet, loud) and history == history_loud
    assert capfd.readouterr().err


def test_watching_does_not_change_the_bits():
    """Callbacks and metrics, and predicting in between."""
    x, _ = ragged_task()

    class Predicts(Callback):
        def on_batch_end(self, trainer, batch, loss):
            trainer.model.predict(x)
            trainer.model.parameters()

    watched, history = fitted(callbacks=[Predicts(), lambda epoch, logs: None], metrics=["mae"])
    alone, history_alone = fitted()
    assert same(watched, alone) and history["val_loss"] == history_alone["val_loss"]


def test_the_models_own_random_state_serves_fit():
    def run(seed):
        layers = [LSTM(2, 5), Dropout(0.3), Last(), Dense(5, 1)]
        model = Sequential(layers, random_state=seed)
        model.fit(*ragged_task(), **FIT)
        return bits(model)

    assert same(run(0), run(0)) and not same(run(0), run(1))


def test_random_state_may_be_a_generator():
    assert same(fitted(seed=0)[0], fitted(seed=np.random.default_rng(0))[0])


@pytest.mark.parametrize("engine_threads", [1, 2])
def test_the_callers_global_random_state_is_left_alone(engine_threads):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    fitted()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "Philox", "SFC64", "MT19937"])
def test_keys_are_those_of_the_generators_integers(kind):
    """However they are drawn: a seed gives the same training as in earlier versions."""
    one, two = (np.random.Generator(getattr(np.random, kind)(7)) for _ in range(2))
    for generator_ in (one, two):
        generator_.integers(10, dtype=np.int32)  # leaves half of a number in the buffer
    for count in (1, 3, 4):
        keys = draw_keys(one, count)
        np.testing.assert_array_equal(keys, two.integers(2**64, size=count, dtype=np.uint64))
        assert keys.dtype == np.uint64 and keys.shape == (count,)
        assert one.integers(99, dtype=np.int32) == two.integers(99, dtype=np.int32)
    assert one.random() == two.random()


# One step by hand.


def by_hand(model, x, y, weight, *, loss="mse", lengths=None, rate=0.1, clip_norm=None, clip_value=None):
    """(parameters after one SGD step, loss, (norm, gradients)) by NumPy and lstmx.reference: LSTM, perhaps Last, Dense.

    `y` is (N, O), or (N, T, O) for one output per step; `weight` is (N,) or (N, T).
    """
    p = {name: value.copy() for name, value in model.parameters().items()}
    dense = f"{len(model.layers) - 1}."
    per_step = model.per_step
    lengths = np.full(len(x), x.shape[1]) if lengths is None else np.asarray(lengths)
    valid = np.arange(x.shape[1]) < lengths[:, None]
    rnn = p["0.weight_ih_l0"], p["0.weight_hh_l0"], p["0.bias_l0"]
    h, _, tape = reference.lstm_forward(x, *rnn, lengths=lengths)
    features = h if per_step else np.where(lengths[:, None] > 0, h[np.arange(len(x)), np.maximum(lengths, 1) - 1], 0)
    z = features @ p[dense + "weight"].T + p[dense + "bias"]
    weight = np.asarray(weight, float)
    if per_step:
        weight = np.where(valid, weight if weight.ndim == 2 else weight[:, None], 0)
        y = np.where(valid[..., None], y, 0)
    if loss == "mse":
        each, dz = ((z - y) ** 2).mean(axis=-1), 2 * (z - y) / z.shape[-1]
    elif loss == "categorical_crossentropy":
        s = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
        each, dz = -(y * np.log(s)).sum(axis=-1), s - y
    else:
        s = 1 / (1 + np.exp(-z))
        each, dz = -(y * np.log(s) + (1 - y) * np.log(1 - s)).mean(axis=-1), (s - y) / z.shape[-1]
    value = (weight * each).sum() / weight.sum()
    dz = dz * weight[..., None] / weight.sum()
    axes = tuple(range(dz.ndim - 1))
    grads = {dense + "weight": np.tensordot(dz, features, (axes, axes)), dense + "bias": dz.sum(axis=axes)}
    dfeatures = dz @ p[dense + "weight"]
    if not per_step:
        dh = np.zeros_like(h)
        dh[np.arange(len(x)), np.maximum(lengths, 1) - 1] = dfeatures * (lengths > 0)[:, None]
        dfeatures = dh
    found = reference.lstm_backward(tape, dfeatures).params
    grads |= {f"0.{name}_l0": g for name, g in found.items()}
    if clip_value is not None:
        grads = {name: np.clip(g, -clip_value, clip_value) for name, g in grads.items()}
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    scale = 1.0 if clip_norm is None or norm <= clip_norm else clip_norm / norm
    return {name: p[name] - rate * scale * grads[name] for name in p}, value, (norm, grads)


def one_step(model, x, y, **options):
    model = model.copy()
    fit = {"optimizer": SGD(0.1), "epochs": 1, "batch_size": 100, "verbose": 0}
    return model, model.fit(x, y, **(fit | options))


def check_step(model, wanted, value, history):
    np.testing.assert_allclose(history["loss"], [value], **STEP)
    for name, got in model.parameters().items():
        np.testing.assert_allclose(got, wanted[name], err_msg=name, **STEP)


def test_a_step_is_the_formula():
    model, (x, y) = small(dtype="float64"), regression(5)
    start = bits(model)
    wanted, value, _ = by_hand(model, x, y[:, None], np.ones(5))
    trained, history = one_step(model, x, y)
    assert all((wanted[name] != start[name]).any() for name in start)
    check_step(trained, wanted, value, history)


@pytest.mark.parametrize("clip_norm", [None, 0.01, 0.5, 1e6])
@pytest.mark.parametrize("clip_value", [None, 0.02, 1e6])
def test_a_clipped_step_is_the_formula(clip_norm, clip_value):
    model, (x, y) = small(dtype="float64"), regression(5)
    wanted, value, (norm, grads) = by_hand(model, x, 5 * y[:, None], np.ones(5), clip_norm=clip_norm,
                                           clip_value=clip_value)  # fmt: skip
    assert norm > 0.01 and max(np.abs(g).max() for g in grads.values()) > 0.019
    trained, history = one_step(model, x, 5 * y, clip_norm=clip_norm, clip_value=clip_value)
    check_step(trained, wanted, value, history)


def test_clipping_by_norm_bounds_the_whole_step():
    model, (x, y) = small(dtype="float64"), regression(5)
    start = bits(model)
    trained, _ = one_step(model, x, 100 * y, clip_norm=0.3, optimizer=SGD(1.0))
    moved = np.sqrt(sum(((p - start[name]) ** 2).sum() for name, p in trained.parameters().items()))
    np.testing.assert_allclose(moved, 0.3, rtol=1e-12)


def test_clipping_by_norm_counts_embeddings():
    layers = [Embedding(6, 3, dtype="float64"), LSTM(3, 4, dtype="float64"), Last(), Dense(4, 1, dtype="float64")]
    model = Sequential(layers, random_state=0)
    start = bits(model)
    model.fit(np.array([[1, 2, 1], [3, 4, 5]]), [30.0, -20.0], optimizer=SGD(1.0), clip_norm=0.3, epochs=1, verbose=0)
    moved = {name: ((p - start[name]) ** 2).sum() for name, p in model.parameters().items()}
    assert moved["0.weight"] > 1e-4
    np.testing.assert_allclose(np.sqrt(sum(moved.values())), 0.3, rtol=1e-12)


def test_sample_weights_divide_by_their_sum():
    model, (x, y), weight = small(dtype="float64"), regression(5), np.array([0.5, 0, 3, 1, 2.5])
    wanted, value, _ = by_hand(model, x, y[:, None], weight)
    check_step(*(lambda m, h: (m, wanted, value, h))(*one_step(model, x, y, sample_weight=weight)))
    # the same weights ten times over change nothing, and a weight of 2 is the sequence twice
    scaled, _ = one_step(model, x, y, sample_weight=10 * weight)
    for name, got in scaled.parameters().items():
        np.testing.assert_allclose(got, wanted[name], **STEP)
    twice, _ = one_step(model, x[[0, 1, 1]], y[[0, 1, 1]])
    weighted, _ = one_step(model, x[:2], y[:2], sample_weight=[1, 2])
    for name, got in twice.parameters().items():
        np.testing.assert_allclose(got, weighted.parameters()[name], **STEP)


@pytest.mark.parametrize("class_weight", [{0: 0.5, 2: 4.0}, "balanced", None])
@pytest.mark.parametrize("sample_weight", [None, np.array([1.0, 2, 0.5, 3, 1, 0.25])])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_weighted_classification_step_is_the_formula(class_weight, sample_weight, activation):
    model, (x, _) = small(outputs=3, activation=activation, dtype="float64"), regression(6)
    labels = np.array([2, 0, 0, 1, 0, 2])
    weights = {"balanced": np.array([6 / 9, 6 / 3, 6 / 6]), None: np.ones(3)}
    per_class = np.array([0.5, 1, 4]) if isinstance(class_weight, dict) else weights[class_weight]
    weight = per_class[labels] * (1 if sample_weight is None else sample_weight)
    wanted, value, _ = by_hand(model, x, np.eye(3)[labels], weight, loss="categorical_crossentropy")
    options = {"loss": "categorical_crossentropy", "class_weight": class_weight, "sample_weight": sample_weight}
    trained, history = one_step(model, x, labels, **options)
    check_step(trained, wanted, value, history)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_binary_step_is_the_formula(activation, outputs):
    model, (x, _) = small(outputs=outputs, activation=activation, dtype="float64"), regression(6)
    y = generator(4).integers(2, size=(6, outputs))
    wanted, value, _ = by_hand(model, x, y, np.ones(6), loss="binary_crossentropy")
    trained, history = one_step(model, x, y, loss="binary_crossentropy")
    check_step(trained, wanted, value, history)


@pytest.mark.parametrize("steps_weighted", [False, True])
@pytest.mark.parametrize("loss", ["mse", "categorical_crossentropy"])
def test_a_step_with_an_output_a_step_leaves_the_padding_out(loss, steps_weighted):
    model = small(pool=None, outputs=1 if loss == "mse" else 3, dtype="float64")
    rng, lengths = generator(5), np.array([4, 1, 0, 3])
    x, weight = rng.normal(size=(4, 4, 2)), rng.uniform(0.5, 2, size=(4, 4) if steps_weighted else 4)
    labels = rng.integers(3, size=(4, 4))
    y = rng.normal(size=(4, 4)) if loss == "mse" else labels
    hot = y[..., None] if loss == "mse" else np.eye(3)[labels]
    wanted, value, _ = by_hand(model, x, hot, weight, loss=loss, lengths=lengths)
    trained, history = one_step(model, x, y, loss=loss, lengths=lengths, sample_weight=weight)
    check_step(trained, wanted, value, history)
    padding = np.arange(4) >= lengths[:, None]
    x[padding], y = np.nan, y.astype(float)
    y[padding] = np.nan
    dirty, history_dirty = one_step(model, x, y, loss=loss, lengths=lengths, sample_weight=weight)
    assert same(bits(trained), bits(dirty)) and history.history == history_dirty.history
    many = [a[:n] for a, n in zip(x, lengths, strict=True)], [a[:n] for a, n in zip(y, lengths, strict=True)]
    if steps_weighted:
        weight = [w[:n] for w, n in zip(weight, lengths, strict=True)]
    as_list, history_list = one_step(model, *many, loss=loss, sample_weight=weight)
    check_step(as_list, wanted, value, history_list)


def test_a_pooled_step_with_lengths_is_the_formula():
    model, (x, y), lengths = small(dtype="float64"), regression(5, 4), np.array([4, 0, 1, 3, 2])
    wanted, value, _ = by_hand(model, x, y[:, None], np.ones(5), lengths=lengths)
    x = x.copy()
    x[np.arange(4) >= lengths[:, None]] = np.nan
    trained, history = one_step(model, x, y, lengths=lengths)
    check_step(trained, wanted, value, history)


@pytest.mark.parametrize("shape", [(5, 1), (5,)])
@pytest.mark.parametrize("kind", [np.float32, np.int64, list])
def test_targets_of_shape_n_and_n_1_are_the_same(shape, kind):
    """Never broadcast to (N, N)."""
    model, (x, _) = small(dtype="float64"), regression(5)
    y = np.array([3, -1, 0, 2, 1])
    wanted, value, _ = by_hand(model, x, y[:, None].astype(float), np.ones(5))
    given = y.reshape(shape)
    trained, history = one_step(model, x, given.tolist() if kind is list else given.astype(kind))
    check_step(trained, wanted, value, history)


def test_batches_are_single_steps_in_order():
    """Two batches without shuffling are two fits of one; the loss of the epoch is the mean over its sequences."""
    model, (x, y) = small(dtype="float64"), regression(5)
    whole, history = one_step(model, x, y, batch_size=3, shuffle=False)
    parts, one = one_step(model, x[:3], y[:3], shuffle=False)
    parts, two = one_step(parts, x[3:], y[3:], shuffle=False)
    assert same(bits(whole), bits(parts))
    np.testing.assert_allclose(history["loss"], [(3 * one["loss"][0] + 2 * two["loss"][0]) / 5], **STEP)


def test_an_adam_step_of_fit_is_that_of_the_optimiser():
    model, (x, y) = small(dtype="float64"), regression(5)
    _, _, (_, grads) = by_hand(model, x, y[:, None], np.ones(5))
    trained, _ = one_step(model, x, y, optimizer=Adam(0.01, epsilon=1e-3))
    for name, start in model.parameters().items():
        g = grads[name]
        np.testing.assert_allclose(trained.parameters()[name], start - 0.01 * g / (np.abs(g) + 1e-3), rtol=1e-11)


def test_a_batch_of_weight_zero_changes_nothing():
    model, (x, y) = small(), regression(4)
    start = bits(model)
    history = model.fit(x, y, sample_weight=[0, 0, 0, 0], epochs=2, batch_size=2, verbose=0)
    assert same(start, bits(model)) and history["loss"] == [0, 0]


# Validation, early stopping, history.


@pytest.mark.parametrize("weighted", [False, True])
def test_validation_data_are_evaluated_without_dropout(weighted):
    model, (x, y), (vx, vy) = small(dropout=0.5), regression(), regression(70, seed=9)
    weight = (generator(1).uniform(size=70),) if weighted else ()
    options = {"validation_data": (vx, vy, *weight), "metrics": ["mae"], "epochs": 2, "verbose": 0}
    history = model.fit(x, y, **options)
    error = model.predict(vx)[:, 0] - vy
    np.testing.assert_allclose(
        history["val_loss"][-1], np.average(error**2, weights=weight[0] if weight else None), rtol=1e-5
    )
    np.testing.assert_allclose(history["val_mae"][-1], np.abs(error).mean(), rtol=1e-5)
    assert set(history.history) == {"loss", "mae", "val_loss", "val_mae", "learning_rate"} and len(history) == 2


def test_validation_lengths_cut_the_validation_data():
    model, (x, y) = small(), regression()
    vx, lengths = x.copy(), generator(0).integers(0, 7, size=24)
    vx[np.arange(6) >= lengths[:, None]] = np.nan
    history = model.fit(x, y, validation_data=(vx, y), validation_lengths=lengths, epochs=1, verbose=0)
    wanted = np.mean((model.predict(vx, lengths=lengths)[:, 0] - y) ** 2)
    np.testing.assert_allclose(history["val_loss"], [wanted], rtol=1e-5)


def test_the_tail_is_held_out():
    model, (x, y) = small(), regression(20)
    other = model.copy()
    one = model.fit(x, y, validation_split=0.25, validation_from="tail", epochs=2, verbose=0, random_state=0)
    two = other.fit(x[:15], y[:15], validation_data=(x[15:], y[15:]), epochs=2, verbose=0, random_state=0)
    assert same(bits(model), bits(other)) and one.history == two.history


def test_a_random_split_trains_on_the_rest():
    """NaN in a sequence trained on is named by its batch; the seed decides which those are."""
    x, y = regression(20)
    failed = []
    for n in range(20):
        dirty = x.copy()
        dirty[n, 0, 0] = np.nan
        with pytest.raises(FloatingPointError) as caught:
            small().fit(dirty, y, validation_split=0.25, epochs=1, verbose=0, random_state=3)
        if "batch" in str(caught.value):
            failed.append(n)
    assert len(failed) == 15 and set(failed) != set(range(15))


def scripted(scores):
    """A metric that follows a script, called once an epoch for training data."""
    calls = iter(scores)

    def score(target, prediction):
        return next(calls)

    return score


def test_early_stopping_restores_the_best_weights():
    model, (x, y) = small(), regression()
    seen = []

    class Keep(Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            seen.append(bits(trainer.model))

    stopping = EarlyStopping(patience=3, monitor="score")
    history = model.fit(x, y, metrics=[scripted([5, 4, 2, 3, 2, 2.5, 1, 0])], early_stopping=stopping, epochs=20,
                        callbacks=[Keep()], verbose=0)  # fmt: skip
    assert (len(history), history.best_epoch, history.stopped) == (6, 2, "early")
    assert same(bits(model), seen[2]) and not same(bits(model), seen[5])


def test_early_stopping_restores_embeddings_too():
    layers = [Embedding(6, 3), LSTM(3, 4), Last(), Dense(4, 1)]
    model, seen = Sequential(layers, random_state=0), []
    tokens = generator(0).integers(6, size=(10, 4))

    class Keep(Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            seen.append(bits(trainer.model))

    stopping = EarlyStopping(patience=1, monitor="score")
    model.fit(tokens, tokens.sum(axis=1), metrics=[scripted([2, 1, 3])], early_stopping=stopping, callbacks=[Keep()],
              epochs=9, verbose=0)  # fmt: skip
    assert len(seen) == 3 and same(bits(model), seen[1]) and (seen[1]["0.weight"] != seen[2]["0.weight"]).any()


@pytest.mark.parametrize("restore_best", [True, False])
def test_the_best_weights_are_restored_after_the_last_epoch_too(restore_best):
    model, (x, y) = small(), regression()
    seen = []

    class Keep(Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            seen.append(bits(trainer.model))

    stopping = EarlyStopping(patience=9, monitor="score", restore_best=restore_best)
    history = model.fit(
        x, y, metrics=[scripted([3, 1, 2])], early_stopping=stopping, callbacks=[Keep()], epochs=3, verbose=0
    )
    assert history.stopped is None and history.best_epoch == 1
    assert same(bits(model), seen[1 if restore_best else 2])


def test_min_delta_asks_for_more_than_a_little():
    model, (x, y) = small(), regression()
    stopping = EarlyStopping(patience=2, monitor="score", min_delta=0.5)
    history = model.fit(x, y, metrics=[scripted([3, 2.8, 2.6, 2.4, 2])], early_stopping=stopping, epochs=9, verbose=0)
    assert len(history) == 3 and history.best_epoch == 0


def test_more_accuracy_is_better():
    model, (x, y) = small(activation="sigmoid"), regression()
    options = {"loss": "binary_crossentropy", "metrics": ["accuracy"], "optimizer": Adam(0.05), "verbose": 0}
    stopping = EarlyStopping(patience=50, monitor="accuracy")
    history = model.fit(x, y > 0, early_stopping=stopping, epochs=15, **options)
    assert history["accuracy"][history.best_epoch] == max(history["accuracy"]) > history["accuracy"][0]


@pytest.mark.parametrize("validation", [False, True])
def test_early_stopping_takes_the_loss_where_there_are_no_validation_data(validation):
    x, y = regression()
    history = small().fit(x, y, early_stopping=True, validation_split=0.25 if validation else 0.0, epochs=5, verbose=0)
    losses = history["val_loss" if validation else "loss"]
    assert history.best_epoch == int(np.argmin(losses))


def test_early_stopping_survives_a_first_score_that_is_nan():
    """An epoch without a number is no best epoch."""
    model, (x, y) = small(), regression()
    stopping = EarlyStopping(patience=3, monitor="score")
    history = model.fit(
        x, y, metrics=[scripted([np.nan, 2, 1, 3, 4, 5, 6])], early_stopping=stopping, epochs=7, verbose=0
    )
    assert history.best_epoch == 2


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(None, None), (False, None), (True, EarlyStopping()), (7, EarlyStopping(7)), (EarlyStopping(2), EarlyStopping(2))],
)
def test_forms_of_early_stopping(value, wanted):
    assert get_early_stopping(value) == wanted


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: EarlyStopping(0), ValueError, "patience: got 0"),
        (lambda: EarlyStopping(1.5), TypeError, "patience: got 1.5"),
        (lambda: EarlyStopping(min_delta=-1), ValueError, "min_delta: got -1"),
        (lambda: EarlyStopping(restore_best="yes"), TypeError, "restore_best: got 'yes'"),
        (lambda: get_early_stopping("yes"), TypeError, "early_stopping: got 'yes'"),
        (lambda: get_early_stopping(0), ValueError, "early_stopping: got 0"),
    ],
)
def test_wrong_early_stopping_is_explained(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_monitor_that_does_not_exist_is_an_error_before_training():
    model, (x, y) = small(), regression()
    start = bits(model)
    with pytest.raises(ValueError, match=r"early_stopping: there is no 'val_f1' to monitor, only .*'loss'"):
        model.fit(x, y, early_stopping=EarlyStopping(monitor="val_f1"), epochs=5, verbose=0)
    assert same(start, bits(model))


def test_metrics_see_targets_and_predictions_of_the_whole_epoch():
    shapes = []

    def worst(target, prediction):
        shapes.append((target.shape, prediction.shape))
        return np.abs(target - prediction).max()

    model, (x, y) = small(), regression()
    history = model.fit(x, y, metrics=[worst, "mse"], optimizer=SGD(0.0), epochs=1, batch_size=7, verbose=0)
    assert shapes == [((24, 1), (24, 1))]
    np.testing.assert_allclose(history["worst"][0], np.abs(model.predict(x)[:, 0] - y).max(), rtol=1e-5)
    np.testing.assert_allclose(history["mse"], history["loss"], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "outputs", "activation"), [
    ("categorical_crossentropy", 3, "softmax"), ("categorical_crossentropy", 3, None),
    ("binary_crossentropy", 1, "sigmoid"), ("binary_crossentropy", 1, None),
])  # fmt: skip
def test_accuracy_of_probabilities_and_of_logits(loss, outputs, activation, dtype):
    """What a user computes from the predictions, whether the model ends with probabilities or with logits."""
    model, (x, _) = small(outputs=outputs, activation=activation, dtype=dtype), regression(60)
    y = generator(2).integers(max(outputs, 2), size=60)
    history = model.fit(x, y, loss=loss, metrics=["accuracy"], optimizer=SGD(0.0), epochs=1, verbose=0)
    out = model.predict(x)
    right = out.argmax(axis=1) == y if outputs > 1 else (out[:, 0] > (0.5 if activation else 0)) == y
    np.testing.assert_allclose(history["accuracy"], [right.mean()], rtol=1e-12)


def test_two_metrics_of_one_name_are_both_kept():
    x, y = regression()
    history = small().fit(x, y, metrics=[lambda t, p: 1.0, lambda t, p: 2.0], epochs=1, verbose=0)
    assert sorted(v[0] for name, v in history.history.items() if name not in ("loss", "learning_rate")) == [1.0, 2.0]


def test_history_tells_and_plots():
    import matplotlib

    matplotlib.use("Agg")
    model, (x, y) = small(), regression()
    history = model.fit(x, y, epochs=3, validation_split=0.25, early_stopping=1, verbose=0)
    assert model.history_ is history
    assert repr(history).startswith(f"History({len(history)} epochs: loss=") and "val_loss=" in repr(history)
    ax = history.plot()
    losses = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_array_equal(losses["training"], history["loss"])
    np.testing.assert_array_equal(losses["validation"], history["val_loss"])
    assert history.plot(ax) is ax
    matplotlib.pyplot.close("all")


def test_a_history_of_no_epochs():
    model, (x, y) = small(), regression()
    start = bits(model)
    history = model.fit(x, y, epochs=0, verbose=1)
    assert len(history) == 0 and repr(history) == "History(0 epochs)" and same(start, bits(model))


# Callbacks.


def test_callbacks_are_called_in_order():
    recorder, (x, y) = Recorder(), regression(5)
    small().fit(x, y, epochs=2, batch_size=2, callbacks=recorder, verbose=0)
    epoch = [("batch", 0), ("batch", 1), ("batch", 2)]
    ends = [("end", e, ["learning_rate", "loss"]) for e in range(2)]
    assert recorder.events == ["begin", ("epoch", 0), *epoch, ends[0], ("epoch", 1), *epoch, ends[1], "over"]


def test_a_function_that_returns_true_stops():
    x, y = regression()
    history = small().fit(x, y, epochs=9, callbacks=[lambda epoch, logs: epoch == 2], verbose=0)
    assert len(history) == 3 and history.stopped == "callback"


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_begin", "on_batch_end", "on_epoch_end"])
def test_stop_ends_after_the_epoch(event):
    class Stops(Callback):
        pass

    setattr(Stops, event, lambda self, trainer, *args: trainer.stop())
    x, y = regression()
    history = small().fit(x, y, epochs=9, callbacks=[Stops()], verbose=0)
    assert len(history) == (0 if event == "on_train_begin" else 1) and history.stopped == "callback"


def test_a_callback_may_predict_copy_save_and_trace(tmp_path):
    model, (x, y) = small(), regression()
    predictions = []

    class Uses(Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            assert trainer.model is model
            predictions.append(model.predict(x))
            for twin in (model.copy(), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
                np.testing.assert_array_equal(twin.predict(x), predictions[-1])
            model.save(tmp_path / f"{epoch}.safetensors")
            model.trace(x)

    model.fit(x, y, epochs=3, callbacks=[Uses()], verbose=0)
    assert (predictions[0] != predictions[1]).any()
    np.testing.assert_array_equal(model.predict(x), predictions[2])
    for epoch in range(3):
        np.testing.assert_array_equal(lstmx.load(tmp_path / f"{epoch}.safetensors").predict(x), predictions[epoch])


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_begin", "on_batch_end", "on_epoch_end", "on_train_end"])
def test_an_exception_in_a_callback_leaves_the_model_usable(event):
    class Fails(Callback):
        pass

    def fail(self, trainer, *args):
        raise ZeroDivisionError("mine")

    setattr(Fails, event, fail)
    model, (x, y) = small(), regression()
    recorder = Recorder()
    with pytest.raises(ZeroDivisionError, match="mine"):
        model.fit(x, y, epochs=2, callbacks=[recorder, Fails()], verbose=0)
    out = model.predict(x)
    assert np.isfinite(out).all() and not any(p.flags.writeable for p in model.parameters().values())
    assert model.parameters()["2.bias"] is not None and recorder.events[-1] == "over"
    model.fit(x, y, epochs=1, verbose=0)
    assert (model.predict(x) != out).any()


def test_parameters_of_before_do_not_change_and_those_of_within_are_snapshots():
    model, (x, y) = small(), regression()
    before = model.parameters()
    values = bits(model)
    held, copies = [], []

    class Holds(Callback):
        def on_batch_end(self, trainer, batch, loss):
            held.append(trainer.model.parameters())
            copies.append(bits(trainer.model))

    model.fit(x, y, epochs=2, batch_size=8, callbacks=[Holds()], verbose=0)
    assert same(before, values) and len(held) == 6
    for snapshot, wanted in zip(held, copies, strict=True):
        assert same(snapshot, wanted)
    assert not same(held[0], held[1]) and same(held[-1], model.parameters())
    for p in (*model.parameters().values(), *held[-1].values()):
        with pytest.raises(ValueError, match="read-only"):
            p[...] = 0


def test_set_parameters_in_a_callback_is_not_lost_silently():
    """The optimiser works on a buffer of its own: setting parameters meanwhile must take effect or be an error."""
    model, (x, y) = small(), regression()
    errors = []

    class Sets(Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            try:
                trainer.model.set_parameters({"2.bias": [50.0]})
            except RuntimeError as error:
                errors.append(error)

    model.fit(x, y, epochs=2, callbacks=[Sets()], verbose=0)
    assert errors or abs(model.parameters()["2.bias"][0] - 50) < 1


def test_a_second_fit_while_one_runs_is_an_error():
    model, (x, y) = small(), regression()
    errors = []

    class Again(Callback):
        def on_batch_end(self, trainer, batch, loss):
            with pytest.raises(RuntimeError, match=r"already being trained.*\.copy\(\)") as error:
                trainer.model.fit(x, y, epochs=1, verbose=0)
            errors.append(error)

    history = model.fit(x, y, epochs=1, batch_size=12, callbacks=[Again()], verbose=0)
    assert len(errors) == 2 and model.history_ is history
    model.fit(x, y, epochs=1, verbose=0)


def test_a_second_fit_from_another_thread_is_an_error():
    model, (x, y) = small(), regression()
    inside, over = threading.Event(), threading.Event()

    class Waits(Callback):
        def on_epoch_begin(self, trainer, epoch):
            inside.set()
            assert over.wait(20)

    thread = threading.Thread(target=lambda: model.fit(x, y, epochs=1, callbacks=[Waits()], verbose=0))
    thread.start()
    assert inside.wait(20)
    try:
        with pytest.raises(RuntimeError, match="already being trained"):
            model.fit(x, y, epochs=1, verbose=0)
        model.predict(x)
    finally:
        over.set()
        thread.join(20)
    assert len(model.history_) == 1


@pytest.mark.parametrize("callbacks", [[3], "plot", [Recorder]])
def test_wrong_callbacks_are_explained(callbacks):
    x, y = regression()
    if callbacks == [Recorder]:  # a class is callable; it was meant to be an instance
        with pytest.raises(TypeError):
            small().fit(x, y, callbacks=callbacks, epochs=1, verbose=0)
        return
    with pytest.raises(TypeError, match=r"callbacks: got .*, must be a lstmx\.Callback or a function"):
        get_callbacks(callbacks)


# Non-finite numbers.


@pytest.mark.parametrize("where", ["X", "y"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_the_data_is_named_and_the_weights_are_those_before_the_batch(where, value):
    model, (x, y) = small(), regression(20)
    dirty = {"X": x.copy(), "y": y.copy()}
    dirty[where][17] = value  # batch 4 of 5
    snapshots = []

    class Keep(Callback):
        def on_batch_end(self, trainer, batch, loss):
            snapshots.append(bits(trainer.model))

    options = {"batch_size": 4, "shuffle": False, "epochs": 3, "callbacks": [Keep()], "verbose": 0}
    message = rf"epoch 1, batch 5: {where} holds NaN or infinite"
    if where == "X" and value == np.inf:
        message = r"epoch 1, batch 5|must be finite"  # gates may swallow an infinite input
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if where == "X" and value == np.inf:
            try:
                model.fit(dirty["X"], dirty["y"], **options)
            except FloatingPointError as error:
                assert "X holds NaN or infinite" in str(error)
            assert all(np.isfinite(p).all() for p in model.parameters().values())
            return
        with pytest.raises(FloatingPointError, match=message):
            model.fit(dirty["X"], dirty["y"], **options)
    assert len(snapshots) == 4 and same(bits(model), snapshots[-1])
    assert model.history_.stopped == "failed"
    model.fit(x, y, epochs=1, verbose=0)


@pytest.mark.parametrize("optimizer", [SGD(1e30), SGD(1e300)], ids=["large", "beyond float32"])
@pytest.mark.parametrize("batch_size", [4, 20])
def test_divergence_is_named_and_leaves_finite_weights(optimizer, batch_size):
    model, (x, y) = small(), regression(20)
    with pytest.raises(FloatingPointError, match=r"epoch \d, batch \d: training diverged; lower the learning rate"):
        model.fit(x, y, optimizer=optimizer, epochs=4, batch_size=batch_size, verbose=0)
    assert all(np.isfinite(p).all() for p in model.parameters().values())
    assert np.isfinite(model.predict(x)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("optimizer", [SGD, lstmx.RMSprop, Adam, lstmx.AdamW])
def test_an_update_to_infinity_is_taken_back_to_the_bit(optimizer, decay, dtype):
    """With weight decay the flat buffer is updated in several stretches; all of them go back."""
    model, (x, y) = small(dtype=dtype), regression(16)
    kept = []

    class Keep(Callback):
        def on_batch_end(self, trainer, batch, loss):
            kept.append(bits(trainer.model))

    rate = 1e300 if dtype == "float32" else 1.7e308  # with the decay or the step above 1, beyond the type
    schedule = optimizer(lambda step: 0.01 if step < 2 else rate, weight_decay=decay)
    with pytest.raises(FloatingPointError, match=r"epoch 1, batch [34]"):
        model.fit(x, 1e3 * y, optimizer=schedule, batch_size=4, epochs=1, callbacks=[Keep()], verbose=0)
    assert len(kept) in (2, 3) and same(bits(model), kept[-1]) and not same(kept[0], kept[1])


@pytest.mark.parametrize("stretch", [0, 1, 2, 3])
def test_one_stretch_that_is_not_finite_takes_all_back(stretch, monkeypatch):
    calls, step, kept = [], Adam.step, []

    def spoils(self, p, *rest):
        finite = step(self, p, *rest)
        calls.append(len(p))
        if len(calls) == 5 + stretch:  # in the second update
            p[-1] = np.inf
            return False
        return finite

    class Keep(Callback):
        def on_batch_end(self, trainer, batch, loss):
            kept.append(bits(trainer.model))

    monkeypatch.setattr(Adam, "step", spoils)
    model, (x, y) = small(), regression(16)
    with pytest.raises(FloatingPointError, match="a weight is infinite or NaN in epoch 1, batch 2"):
        model.fit(x, y, optimizer=Adam(0.01, weight_decay=0.1), batch_size=4, epochs=1, callbacks=[Keep()], verbose=0)
    assert len(calls) == 8 and len(kept) == 1 and same(bits(model), kept[0])


def test_divergence_in_the_very_last_update_is_noticed():
    """Nothing computes a loss after it."""
    model, (x, y) = small(), regression(4)
    with pytest.raises(FloatingPointError, match="epoch 1, batch 1"):
        model.fit(x, y, optimizer=SGD(1e300), epochs=1, verbose=0)
    assert all(np.isfinite(p).all() for p in model.parameters().values())


def test_targets_too_large_for_the_loss_raise_one_error_and_no_warning():
    model, (x, y) = small(), regression(4)
    with pytest.raises(FloatingPointError, match="epoch 1, batch 1"):
        model.fit(x, y * 1e30, epochs=1, verbose=0)


def test_nan_in_an_unused_padding_is_no_nan():
    x, y = regression(4)
    x = np.concatenate([x, np.full((4, 3, 2), np.nan)], axis=1)
    small().fit(x, y, lengths=[6] * 4, epochs=1, verbose=0)


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_a_bar_counts_every_sequence_however_rarely_it_is_drawn(every):
    drawn = []

    class Bar:
        def __init__(self, total, **options):
            self.n, self.total = 0, total

        def update(self, n):
            self.n += n

        def set_postfix(self, *args, **options):
            drawn.append(self.n)

        def close(self):
            assert self.n == self.total

    progress = Progress(bar=False)
    progress._tqdm, progress.SHOW_EVERY = Bar, every
    for epoch in range(2):
        progress.begin(epoch, 2, 50)
        for _ in range(5):
            progress.advance(10, 1.0)
        progress.end({"loss": 1.0})
    assert len(drawn) == (2 * 6 if every == 0 else 2 * 1)


# Ctrl-C.


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_begin", "on_batch_end", "on_epoch_end"])
def test_keyboard_interrupt_keeps_the_model_and_the_history(event):
    class Interrupts(Callback):
        calls = 0

    def interrupt(self, trainer, *args):
        Interrupts.calls += 1
        if Interrupts.calls == 2 or event == "on_train_begin":
            raise KeyboardInterrupt

    setattr(Interrupts, event, interrupt)
    model, (x, y) = small(), regression()
    start = bits(model)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=5, callbacks=[Interrupts()], batch_size=12, verbose=0)
    assert model.history_.stopped == "interrupted"
    epochs = {"on_train_begin": 0, "on_epoch_begin": 1, "on_batch_end": 0, "on_epoch_end": 2}[event]
    assert len(model.history_) == epochs
    assert same(start, bits(model)) == (event == "on_train_begin")
    assert np.isfinite(model.predict(x)).all()
    model.fit(x, y, epochs=1, verbose=0)


def test_interrupt_restores_the_best_weights():
    model, (x, y), seen = small(), regression(), []

    def interrupt(epoch, logs):
        seen.append(bits(model))
        if epoch == 2:
            raise KeyboardInterrupt

    stopping = EarlyStopping(5, monitor="score")
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            x, y, metrics=[scripted([2, 1, 3])], early_stopping=stopping, callbacks=[interrupt], epochs=9, verbose=0
        )
    assert same(bits(model), seen[1]) and model.history_.best_epoch == 1


def run_python(code, *, send=None, timeout=60):
    """Run code in a new interpreter; `send` a signal once it prints "ready". Returns (return code, output, seconds)."""
    process = subprocess.Popen([sys.executable, "-P", "-c", textwrap.dedent(code)], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, env=CHILD)  # fmt: skip
    try:
        start = time.monotonic()
        if send is not None:
            line = process.stdout.readline()
            assert line == "ready\n", line + process.stdout.read()
            time.sleep(0.5)
            process.send_signal(send)
            start = time.monotonic()
        out, _ = process.communicate(timeout=timeout)
        return process.returncode, out, time.monotonic() - start
    finally:
        process.kill()
        process.wait()


@pytest.mark.long
@pytest.mark.parametrize("shape", ["many batches", "one long batch"])
def test_ctrl_c_stops_a_fit(shape):
    """The longer a batch, the longer the wait: 20 s is the limit for one of about a second."""
    size = "64, 30, 2" if shape == "many batches" else "64, 1500, 2"
    code, out, seconds = run_python(
        f"""
        import numpy as np, lstmx
        x = np.random.default_rng(0).normal(size=({size}))
        model = lstmx.Sequential([lstmx.LSTM(2, 32), lstmx.Last(), lstmx.Dense(32, 1)], random_state=0)

        class Ready(lstmx.Callback):
            def on_batch_end(self, trainer, batch, loss):
                if trainer.state.epoch == batch == 0:
                    print("ready", flush=True)

        try:
            model.fit(x, x[:, 0, 0], epochs=10**6, batch_size=64, callbacks=[Ready()], verbose=0)
        except KeyboardInterrupt:
            assert model.history_.stopped == "interrupted"
            assert np.isfinite(model.predict(x)).all()
            model.fit(x, x[:, 0, 0], epochs=1, verbose=0)
            print("usable")
        """,
        send=signal.SIGINT,
    )
    assert (code, out) == (0, "usable\n") and seconds < 20


# TrainerState.


def trainer(model, data, validation=None, *, optimizer, state=None, early_stopping=None, seed=0, callbacks=()):
    def read(x, y):
        inputs = read_inputs(x, model, None)
        targets = read_targets(y, inputs, model.output_size, "mse", model.per_step, model.dtype)
        return Data(inputs, targets, read_weights(None, None, targets, inputs, model.output_size, model.dtype))

    return Trainer(
        model, read(*data), get_loss("mse", "linear"), optimizer, batch_size=4, rng=generator(seed), state=state,
        early_stopping=early_stopping, validation=None if validation is None else read(*validation),
        callbacks=callbacks,
    )  # fmt: skip


def embedding_task(seed=0):
    tokens = generator(seed).integers(8, size=(14, 5))
    return tokens, np.sin(tokens).sum(axis=1)


def vector_model():
    return small(dropout=0.4)


def token_model():
    layers = [Embedding(8, 3), Dropout(0.2), LSTM(3, 5, 2, dropout=0.3), MeanPool(), Dense(5, 1)]
    return Sequential(layers, random_state=0)


class PickleAt(Callback):
    def __init__(self, event, epoch):
        self.at, self.event, self.saved = epoch, event, None
        setattr(self, event, self.keep)

    def keep(self, trainer, epoch, logs=None):
        if epoch == self.at:
            self.saved = pickle.dumps(trainer.state)


OPTIMISERS = {
    "momentum": SGD(0.05, momentum=0.9),
    "rmsprop": lstmx.RMSprop(0.01, momentum=0.5),
    "adam": Adam(lstmx.StepDecay(0.05, 0.5, 5)),
    "adamw": lstmx.AdamW(0.05, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize(("make", "task"), [(vector_model, regression), (token_model, embedding_task)])
def test_resuming_gives_the_bits_of_an_uninterrupted_run(make, task, optimizer):
    data = tuple(a[:14] for a in task())
    whole = make()
    wanted = trainer(whole, data, optimizer=optimizer).run(5).history

    first = trainer(make(), data, optimizer=optimizer)
    first.run(2)
    saved = pickle.dumps(first.state)
    resumed = make()
    again = trainer(resumed, data, optimizer=optimizer, state=pickle.loads(saved), seed=99)
    history = again.run(5)
    assert same(bits(whole), bits(resumed)) and history.history == wanted


@pytest.mark.parametrize(("event", "epoch"), [("on_epoch_begin", 2), ("on_epoch_end", 1)])
def test_a_checkpoint_from_a_callback_resumes_to_the_same_bits(event, epoch):
    """A callback at the end of an epoch is where users save: it must not be done again on resuming."""
    data = regression(14)
    whole, keeper = vector_model(), PickleAt(event, epoch)
    wanted = trainer(whole, data, optimizer=OPTIMISERS["adam"], callbacks=[keeper]).run(5).history
    resumed = vector_model()
    history = trainer(resumed, data, optimizer=OPTIMISERS["adam"], state=pickle.loads(keeper.saved)).run(5)
    assert history.history == wanted and same(bits(whole), bits(resumed))


@pytest.mark.parametrize("how", ["callback", "run"])
def test_resuming_with_early_stopping(how):
    """The best score so far and its weights are part of the state; stopping is as if nothing had happened."""
    data, held = regression(14), regression(10, seed=5)
    options = {"optimizer": Adam(0.03), "early_stopping": EarlyStopping(4), "validation": held}
    wanted = trainer(vector_model(), data, **options).run(90)
    assert wanted.stopped == "early" and 0 < wanted.best_epoch < len(wanted) - 2
    cut = len(wanted) - 2
    whole, keeper = vector_model(), PickleAt("on_epoch_begin", cut)
    assert trainer(whole, data, callbacks=[keeper], **options).run(90).history == wanted.history
    saved = keeper.saved
    if how == "run":
        first = trainer(vector_model(), data, **options)
        first.run(cut)
        saved = pickle.dumps(first.state)
    resumed = vector_model()
    history = trainer(resumed, data, state=pickle.loads(saved), **options).run(90)
    assert history.history == wanted.history and history.best_epoch == wanted.best_epoch
    assert same(bits(whole), bits(resumed))


def test_running_on_goes_on():
    data = regression(14)
    whole, parts = vector_model(), vector_model()
    trainer(whole, data, optimizer=Adam(0.05)).run(4)
    runner = trainer(parts, data, optimizer=Adam(0.05))
    runner.run(1)
    runner.run(4)
    assert same(bits(whole), bits(parts)) and len(runner.state.history) == 4


def test_fitting_twice_continues_from_the_weights():
    model, (x, y) = small(), regression()
    first = model.fit(x, y, epochs=5, optimizer=Adam(0.02), verbose=0)
    second = model.fit(x, y, epochs=5, optimizer=Adam(0.02), verbose=0)
    assert len(first) == len(second) == 5 and model.history_ is second
    assert second["loss"][0] < 0.8 * first["loss"][0]


# What is shown.


def test_a_line_an_epoch_on_stderr_where_there_is_no_terminal(capfd):
    x, y = regression()
    small().fit(x, y, epochs=2, validation_split=0.25, metrics=["mae"])
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 2
    for n, line in enumerate(lines):
        assert line.startswith(f"epoch {n + 1}/2: loss ")
        assert "mae " in line and "val_loss " in line and line.endswith(" seq/s") and "learning_rate" not in line


def test_verbose_0_says_nothing(capfd):
    x, y = regression()
    small().fit(x, y, epochs=2, verbose=0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", [1, 2])
@pytest.mark.parametrize("tqdm", ["installed", "missing"])
def test_a_bar_on_a_terminal_with_tqdm(verbose, tqdm):
    import fcntl
    import pty
    import struct
    import termios

    code = textwrap.dedent(
        f"""
        import sys
        if {tqdm == "missing"}:
            sys.modules["tqdm"] = None
        import numpy as np, lstmx
        model = lstmx.Sequential([lstmx.LSTM(2, 3), lstmx.Last(), lstmx.Dense(3, 1)], random_state=0)
        model.fit(np.ones((40, 5, 2)), np.ones(40), epochs=2, batch_size=8, verbose={verbose})
        """
    )
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-P", "-W", "error", "-c", code], stderr=slave, stdin=subprocess.DEVNULL, env=CHILD
    )
    os.close(slave)
    shown = b""
    try:
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
    finally:
        process.wait(20)
        os.close(master)
    text = shown.decode()
    assert process.returncode == 0, text
    assert "epoch 2/2" in text and "loss" in text
    bar = verbose == 1 and tqdm == "installed"
    assert ("40/40" in text) == bar and ("%" in text) == bar
    assert ("seq/s" in text) and text.count("\n") == 2


def test_the_terminal_is_left_in_order_after_an_error():
    progress = Progress(bar=False)
    closed = []
    progress.close = lambda reason: closed.append(True)
    model, data = small(), regression(8)
    run = trainer(model, data, optimizer=SGD(0.1), callbacks=get_callbacks([lambda epoch, logs: 1 / 0]))
    run.progress = progress
    with pytest.raises(ZeroDivisionError):
        run.run(2)
    assert closed


# Where the data lie.


def test_a_memory_map_is_read_where_it_is(tmp_path):
    path = tmp_path / "x.npy"
    x, y = regression(40)
    np.save(path, x.astype(np.float32))
    mapped = np.load(path, mmap_mode="r")
    one, two = small(), small()
    one.fit(mapped, y, epochs=2, verbose=0, random_state=0)
    two.fit(x.astype(np.float32), y, epochs=2, verbose=0, random_state=0)
    assert same(bits(one), bits(two))
    inputs = read_inputs(mapped, one, None)
    assert np.shares_memory(inputs.x, mapped)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_strided_windows_are_never_copied_as_a_whole(dtype):
    """20,000 windows of 1,000 steps are 80 MB or more as a whole; their series is 84 kB."""
    import tracemalloc

    series = np.sin(np.arange(21_000) / 50).astype(dtype)
    windows = np.lib.stride_tricks.sliding_window_view(series[:-1], 1000)[:, :, None]
    y = series[1000:][: len(windows)]
    assert windows.nbytes > 79e6
    model = Sequential([LSTM(1, 2), Last(), Dense(2, 1)], random_state=0)
    start = tracemalloc.start()

    class Stop(Callback):
        def on_batch_end(self, trainer, batch, loss):
            if batch == 3:
                raise StopIteration

    try:
        with pytest.raises(StopIteration):
            model.fit(windows, y, batch_size=8, callbacks=[Stop()], verbose=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert start is None and peak < 20e6


def test_windows_give_the_bits_of_their_copy():
    series = np.sin(np.arange(60) / 5).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(series, 10)[:, :, None]
    models = [Sequential([LSTM(1, 3), Last(), Dense(3, 1)], random_state=0) for _ in range(2)]
    for model, x in zip(models, (windows, windows.copy()), strict=True):
        model.fit(x, np.arange(51.0) / 51, epochs=2, verbose=0, random_state=0)
    assert same(*map(bits, models))


def test_fit_does_not_change_what_it_is_given():
    x, y, weight = *regression(), generator(1).uniform(size=24)
    validation = (x.copy(), y.copy(), weight.copy())
    before = copy.deepcopy((x, y, weight, validation))
    small().fit(x, y, sample_weight=weight, validation_data=validation, epochs=2, verbose=0, clip_value=0.1)
    for now, then in zip((x, y, weight, *validation), (*before[:3], *before[3]), strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_read_only_and_fortran_data_fit_to_the_same_bits(read_only, order):
    x, y = regression()
    given = np.array(x, np.float32, order=order)
    targets = y.astype(">f8")
    given.flags.writeable = targets.flags.writeable = not read_only
    one, two = small(), small()
    one.fit(given, targets, epochs=1, verbose=0, random_state=0)
    two.fit(x, y, epochs=1, verbose=0, random_state=0)
    assert same(bits(one), bits(two))


@pytest.mark.parametrize("shape", [(3, 0, 2), (1, 1, 2)])
def test_the_smallest_data(shape):
    model = small()
    history = model.fit(np.ones(shape), np.arange(shape[0]), epochs=2, verbose=0)
    assert np.isfinite(history["loss"]).all()


def test_batches_of_empty_sequences_alone():
    model = small(pool=None)
    history = model.fit(
        [np.zeros((0, 2)), np.ones((3, 2))], [np.zeros(0), np.ones(3)], batch_size=1, epochs=2, verbose=0
    )
    assert np.isfinite(history["loss"]).all() and history["loss"][0] > 0


# Mistakes.


N, T = 6, 5
GOOD_X, GOOD_Y = np.zeros((N, T, 2)), np.zeros(N)
CROSS = {"loss": "categorical_crossentropy"}


def classifier():
    return small(outputs=3, activation="softmax")


@pytest.mark.parametrize(
    ("model", "x", "y", "options", "error", "message"),
    [
        (small, np.zeros((N, T)), GOOD_Y, {}, ValueError, r"X: got shape \(6, 5\).*X\[:, :, None\].*X\[None\]"),
        (small, np.zeros((N, 2, T)), GOOD_Y, {}, ValueError, r"X\.swapaxes\(1, 2\)"),
        (small, np.zeros((N, T, 3)), GOOD_Y, {}, ValueError, r"X: got shape \(6, 5, 3\), must be \(N, T, 2\)"),
        (small, np.zeros((0, T, 2)), np.zeros(0), {}, ValueError, "X: holds no sequence"),
        (small, [], [], {}, ValueError, "X: holds no sequence"),
        (small, None, GOOD_Y, {}, TypeError, "X: got"),
        (small, GOOD_X, None, {}, TypeError, "y: got"),
        (small, GOOD_X, np.zeros(N + 1), {}, ValueError, r"y: got shape \(7,\), must be \(6,\)"),
        (small, GOOD_X, np.zeros((N, 2)), {}, ValueError, r"y: got shape \(6, 2\)"),
        (small, GOOD_X, np.zeros((N, T)), {}, ValueError, r"y: got shape \(6, 5\).*one per sequence"),
        (lambda: small(pool=None), GOOD_X, GOOD_Y, {}, ValueError, r"y: got shape \(6,\).*one per step"),
        (small, GOOD_X, list("abcdef"), {}, TypeError, "y: got dtype"),
        (classifier, GOOD_X, list("abcdef"), CROSS, TypeError, "encode class names as integers"),
        (classifier, GOOD_X, [1, 2, 3, 1, 2, 3], CROSS, ValueError, "the label 3, must be between 0 and 2"),
        (classifier, GOOD_X, [0, 1, 2, 0, 1, 2], {}, ValueError, r"must be \(6, 3\)"),
        (small, GOOD_X, GOOD_Y, {"loss": "crossentropy"}, ValueError, "loss: got 'crossentropy', must be one of 'mse'"),
        (small, GOOD_X, GOOD_Y + 2, {"loss": "binary_crossentropy"}, ValueError, "must be between 0 and 1"),
        (classifier, GOOD_X, [0] * N, {"loss": "binary_crossentropy"}, ValueError, "activation 'sigmoid'"),
        (small, GOOD_X, GOOD_Y, {"optimizer": "lion"}, ValueError, "optimizer: got 'lion'"),
        (small, GOOD_X, GOOD_Y, {"epochs": -1}, ValueError, "epochs: got -1"),
        (small, GOOD_X, GOOD_Y, {"epochs": 2.5}, TypeError, "epochs: got 2.5"),
        (small, GOOD_X, GOOD_Y, {"batch_size": 0}, ValueError, "batch_size: got 0"),
        (small, GOOD_X, GOOD_Y, {"batch_size": None}, TypeError, "batch_size: got None"),
        (small, GOOD_X, GOOD_Y, {"lengths": [T] * 5}, ValueError, r"lengths: got shape \(5,\)"),
        (small, GOOD_X, GOOD_Y, {"lengths": [T + 1] * N}, ValueError, "between 0 and T = 5"),
        (small, list(GOOD_X), GOOD_Y, {"lengths": [T] * N}, ValueError, "carries its own lengths"),
        (small, GOOD_X, GOOD_Y, {"sample_weight": [1, 1, 1, 1, 1, -1]}, ValueError, "sample_weight: .*at least 0"),
        (small, GOOD_X, GOOD_Y, {"sample_weight": [1, 2]}, ValueError, r"sample_weight: got shape \(2,\)"),
        (small, GOOD_X, GOOD_Y + 0.5, {"class_weight": "balanced"}, ValueError, "class_weight: needs integer class"),
        (classifier, GOOD_X, [0] * N, CROSS | {"class_weight": [1, 2, 3]}, TypeError, "class_weight: got list"),
        (classifier, GOOD_X, [0] * N, CROSS | {"class_weight": {5: 1.0}}, ValueError, "class_weight"),
        (small, GOOD_X, GOOD_Y, {"shuffle": "yes"}, ValueError, "shuffle: got 'yes'"),
        (small, GOOD_X, GOOD_Y, {"validation_data": GOOD_X}, ValueError, r"validation_data: must be \(X, y\)"),
        (small, GOOD_X, GOOD_Y, {"validation_data": (GOOD_X,)}, ValueError, r"validation_data: must be \(X, y\)"),
        (small, GOOD_X, GOOD_Y, {"validation_data": (GOOD_X, GOOD_Y[:2])}, ValueError, "validation_data y: got shape"),
        (small, GOOD_X, GOOD_Y, {"validation_data": (GOOD_X[0], 1.0)}, ValueError, "validation_data X: got shape"),
        (small, GOOD_X, GOOD_Y, {"validation_data": (GOOD_X[:0], [])}, ValueError, "validation_data X: holds no"),
        (small, GOOD_X, GOOD_Y, {"validation_lengths": [T] * N}, ValueError, "validation_lengths: given without"),
        (small, GOOD_X, GOOD_Y, {"validation_data": (GOOD_X, GOOD_Y), "validation_lengths": [9] * N}, ValueError,
         "validation_lengths: sequence 0 has length 9"),
        (small, GOOD_X, GOOD_Y, {"validation_data": (GOOD_X, GOOD_Y, [1])}, ValueError,
         "validation_data sample_weight: got shape"),
        (small, GOOD_X, GOOD_Y, {"validation_split": 1.0}, ValueError, "validation_split: got 1.0"),
        (small, GOOD_X, GOOD_Y, {"validation_split": 0.01}, ValueError, "validation_split: 0.01 of 6 sequences"),
        (small, GOOD_X, GOOD_Y, {"validation_split": "20%"}, TypeError, "validation_split: got '20%'"),
        (small, GOOD_X, GOOD_Y, {"validation_from": "head"}, ValueError, "validation_from: got 'head'"),
        (small, GOOD_X, GOOD_Y, {"metrics": ["auc"]}, ValueError, "metrics: got 'auc'"),
        (small, GOOD_X, GOOD_Y, {"clip_norm": 0}, ValueError, "clip_norm: got 0"),
        (small, GOOD_X, GOOD_Y, {"clip_value": -1}, ValueError, "clip_value: got -1"),
        (small, GOOD_X, GOOD_Y, {"early_stopping": "auto"}, TypeError, "early_stopping: got 'auto'"),
        (small, GOOD_X, GOOD_Y, {"verbose": 3}, ValueError, "verbose: got 3"),
        (small, GOOD_X, GOOD_Y, {"random_state": "a"}, TypeError, "random_state: got 'a'"),
    ],
)  # fmt: skip
def test_mistakes_are_explained_and_change_nothing(model, x, y, options, error, message):
    model = model()
    start = bits(model)
    with pytest.raises(error, match=message):
        model.fit(x, y, **({"epochs": 1, "verbose": 0} | options))
    assert same(start, bits(model)) and model.history_ is None
    model.fit(GOOD_X, np.zeros((N, *[T] * model.per_step, model.output_size)), epochs=1, verbose=0)


def test_tokens_out_of_range_are_explained():
    with pytest.raises(ValueError, match="X: got the integer 8, must be between 0 and num_embeddings - 1 = 7"):
        token_model().fit(np.array([[1, 8]]), [1.0], epochs=1, verbose=0)
    with pytest.raises(TypeError, match="X: got dtype float64, must be integers"):
        token_model().fit(np.array([[1.0, 2.0]]), [1.0], epochs=1, verbose=0)


@pytest.mark.parametrize(("loss", "activation", "outputs"), [
    ("categorical_crossentropy", "softmax", 3), ("binary_crossentropy", "sigmoid", 1),
])  # fmt: skip
def test_probabilities_before_a_pooling_layer_are_not_taken_for_logits(loss, activation, outputs):
    """[LSTM, Dense(softmax), Last]: the outputs are probabilities, so the loss is -log p of them, or it is an error."""
    model = Sequential([LSTM(2, 4), Dense(4, outputs, activation), Last()], random_state=0)
    x, y = generator(0).normal(size=(9, 5, 2)), np.array([0, 1, 1, 0, 0, 1, 0, 1, 1])
    try:
        history = model.fit(x, y, loss=loss, optimizer=SGD(0.0), epochs=1, verbose=0)
    except ValueError:
        return
    p = model.predict(x)
    picked = p[np.arange(9), y] if outputs > 1 else np.where(y, p[:, 0], 1 - p[:, 0])
    np.testing.assert_allclose(history["loss"], [-np.log(picked).mean()], rtol=1e-5)


def test_the_sequence_and_step_of_a_nan_are_named():
    x = GOOD_X.copy()
    x[4, 3, 1] = np.nan
    with pytest.raises(FloatingPointError, match=r"X holds NaN .* in sequence 4, step 3; remove"):
        small().fit(x, GOOD_Y, epochs=1, batch_size=2, verbose=0, random_state=0)
    with pytest.raises(FloatingPointError, match=r"X holds NaN .* in sequence 4, step 3; remove"):
        small().fit(x, GOOD_Y, epochs=9, batch_size=2, verbose=0, validation_split=0.2, validation_from="tail")


def test_finite_data_beyond_float32_are_not_called_nan_only():
    with pytest.raises(FloatingPointError, match="ones beyond float32"):
        small().fit(regression(6)[0].astype(np.float64) * 1e39, GOOD_Y, epochs=1, verbose=0)


def test_nan_in_validation_data_stops():
    with pytest.raises(FloatingPointError, match="the validation loss is nan in epoch 1: the validation data hold NaN"):
        small().fit(GOOD_X, GOOD_Y, validation_data=(GOOD_X * np.nan, GOOD_Y), epochs=2, verbose=0)


def test_accuracy_of_a_regression_is_refused():
    with pytest.raises(ValueError, match=r"^metrics: accuracy needs class labels"):
        small().fit(GOOD_X, GOOD_Y + 0.5, metrics=["accuracy"], epochs=1, verbose=0)


def test_a_metric_that_gives_an_array_is_named():
    def ratio(y_true, y_pred):
        return y_true / (1 + y_pred**2)

    with pytest.raises(TypeError, match=r"^metrics: ratio returned an array of shape \(6, 1\)"):
        small().fit(GOOD_X, GOOD_Y, metrics=[ratio], epochs=1, verbose=0)


def test_a_callback_class_is_refused_before_training():
    with pytest.raises(TypeError, match=r"^callbacks: got the class Callback, must be an instance: Callback\(\)"):
        small().fit(GOOD_X, GOOD_Y, callbacks=[lstmx.Callback], epochs=1, verbose=0)
