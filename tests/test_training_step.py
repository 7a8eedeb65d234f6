"""One step of training is the step that the formulas give.

Tolerances. STEP: one float64 training step against NumPy, sums of up to a few hundred terms in another order: 1e-12.
"""

import numpy as np
import pytest
from training_data import bits, generator, regression, same, small

from lstmx import (
    LSTM,
    SGD,
    Adam,
    Dense,
    Embedding,
    Last,
    Sequential,
    reference,
)

STEP = {"rtol": 1e-12, "atol": 1e-14}


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
