"""Attributions: what each method is, that they are complete, and that they find what was planted.

Tolerances. EXACT: float64 sums of a few dozen terms. SMOOTH: what 64 points leave of a smooth integral.
SUMS: float64 sums of values of order 10. NUMERICAL: two integrals of a function that jumps, of the largest value.
"""

import numpy as np
import pytest
from cell_cases import CELLS, network, problem
from lstm_cases import assert_same
from tolerances import FINITE_DIFFERENCE

import lstmx
from lstmx import LSTM, Dense, Dropout, Embedding, FinalState, Last, Masking, MeanPool, Sequential
from lstmx.inspect import Attribution, attribute
from lstmx.testing import finite_difference

EXACT = {"rtol": 1e-10, "atol": 1e-13}
SMOOTH = {"rtol": 0, "atol": 1e-10}
SUMS = {"rtol": 0, "atol": 1e-10}
NUMERICAL = {"rtol": 0, "atol": 0.01}
METHODS = ["gradient_x_input", "integrated_gradients", "occlusion"]
methods = pytest.mark.parametrize("method", METHODS)


def model_of(pool=Last, outputs=1, activation=None, dtype="float64", **options):
    lstm = LSTM(2, 5, dtype=dtype, random_state=0, **options)
    rng = np.random.default_rng(1)
    lstm.set_parameters({name: rng.normal(scale=0.6, size=p.shape) for name, p in lstm.parameters().items()})
    layers = [lstm, Dropout(0.5), *([pool()] if pool else [])]
    return Sequential([*layers, Dense(lstm.output_size(), outputs, activation, dtype=dtype)], random_state=2)


def data(n=3, steps=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, steps, 2))


# What each method is


def test_gradient_x_input_is_the_gradient_times_the_input():
    model, x = model_of(), data(2, 5)
    found = attribute(model, x, method="gradient_x_input")
    for n in range(2):
        own = x[n : n + 1].copy()
        gradient = finite_difference(lambda own=own: model.predict(own)[0, 0], own)
        np.testing.assert_allclose(found.values[n], gradient[0] * x[n], **FINITE_DIFFERENCE)
    shifted = attribute(model, x, method="gradient_x_input", baseline=0.5)
    np.testing.assert_allclose(shifted.values, found.values * (x - 0.5) / x, **EXACT)


def test_integrated_gradients_are_the_mean_gradient_on_the_way():
    model, x, base = model_of(), data(1, 4), np.array([0.3, -0.2])
    found = attribute(model, x, baseline=base, steps=40)
    ways = (np.arange(2000) + 0.5) / 2000
    line = base + ways[:, None, None] * (x - base)
    mean = np.mean(
        [attribute(model, line, method="gradient_x_input", baseline=100.0).values / (line - 100)], axis=(0, 1)
    )
    np.testing.assert_allclose(found.values[0], mean * (x[0] - base), rtol=1e-5, atol=1e-7)


def test_occlusion_is_how_far_the_output_falls():
    model, x = model_of(), data(2, 4)
    found = attribute(model, x, method="occlusion", baseline=np.array([0.1, 0.2]), lengths=[4, 2])
    for n, length in enumerate([4, 2]):
        for t, k in np.ndindex(length, 2):
            tried = x[n, :length].copy()
            tried[t, k] = (0.1, 0.2)[k]
            fall = (model.predict(x[n, :length]) - model.predict(tried))[0]
            np.testing.assert_allclose(found.values[n, t, k], fall, **EXACT)
    assert (found.values[1, 2:] == 0).all()


# Completeness


@pytest.mark.parametrize("pool", [Last, MeanPool, FinalState, None])
@pytest.mark.parametrize("activation", [None, "sigmoid", "tanh"])
def test_integrated_gradients_are_complete(pool, activation):
    model, x = model_of(pool, activation=activation, bidirectional=True, num_layers=2), data(4, 7)
    found = attribute(model, x)
    y, base = model.predict(x), model.predict(np.zeros_like(x))
    y, base = (a if pool else a[:, -1] for a in (y, base))
    np.testing.assert_allclose(found.output, y[:, 0], **EXACT)
    np.testing.assert_allclose(found.baseline_output, base[:, 0], **EXACT)
    np.testing.assert_allclose(found.completeness, 0, **SMOOTH)
    np.testing.assert_allclose(found.values.sum(axis=(1, 2)), (y - base)[:, 0], **SMOOTH)


@pytest.mark.parametrize("cell", [c for c in CELLS.values() if not c.drops and not c.layer_norm], ids=repr)
def test_every_cell_is_complete(cell):
    """But norms, which turn at once from one side of the baseline to the other."""
    lstm = network(cell, 3, 6, bidirectional=True)
    x = 0.5 * problem(lstm, 2, 4)["x"]
    found = attribute(lstm, x, output=2, steps=400)  # with corners on the way
    size = np.abs(found.output - found.baseline_output)
    assert (np.abs(found.completeness) < 0.02 * size + 1e-3).all()


def test_the_error_falls_with_the_points():
    model, x = model_of(activation="sigmoid"), 3 * data(8, 6)
    errors = [np.abs(attribute(model, x, steps=steps, tolerance=None).completeness).max() for steps in (2, 8, 32, 128)]
    assert errors[0] > 1e-3 and errors[1] < errors[0] / 3 and errors[2] < errors[1] / 30 and errors[3] < 1e-12


def test_the_output_of_a_baseline_by_feature_is_that_of_the_model():
    model, x, base = model_of(), data(1, 4), np.array([0.3, -0.2])
    found = attribute(model, x, baseline=base)
    np.testing.assert_allclose(found.baseline_output, model.predict(np.broadcast_to(base, x.shape))[:, 0], **EXACT)
    np.testing.assert_allclose(found.completeness, 0, **SMOOTH)


def jumping(pool=Last):
    """A model whose output jumps on the line from the baseline, in float32."""
    model = model_of(pool, dtype="float32")
    parameters = model.layers[0].parameters()
    model.layers[0].set_parameters({name: 25 * p for name, p in parameters.items()})
    return model


@pytest.mark.parametrize("form", ["array", "padded", "masked", "list", "single"])
def test_points_are_placed_where_the_output_jumps(form):
    model, x = jumping(), 3 * data(8, 6)
    lengths = np.array([6, 2, 5, 6, 1, 3, 6, 4])
    x, options = {
        "array": (x, {}),
        "padded": (x, {"lengths": lengths}),
        "masked": (x, {"mask": np.arange(48).reshape(8, 6) % 3 > 0}),
        "list": ([a[:n] for a, n in zip(x, lengths, strict=True)], {}),
        "single": (x[0], {}),
    }[form]
    before = attribute(model, x, tolerance=None, **options)
    assert (before.unexplained > 0.02).any()
    found = attribute(model, x, **options)
    assert (found.unexplained <= 0.01).all()
    good = before.unexplained < 0.01
    for n in np.flatnonzero(good):  # stays as it was
        assert_same(found.values[n], before.values[n])
    values = [found.values] if form == "single" else found.values
    total = [v.sum() for v in values]
    np.testing.assert_allclose(total, found.output - found.baseline_output + found.completeness, **SUMS)


@pytest.mark.long
def test_more_points_agree_with_very_many():
    model, x = jumping(), 3 * data(4, 6)
    found, fine = attribute(model, x, tolerance=5e-3), attribute(model, x, steps=4000, tolerance=None)
    for n in np.flatnonzero(fine.unexplained < 0.002):
        size = np.abs(fine.values[n]).max()
        np.testing.assert_allclose(found.values[n] / size, fine.values[n] / size, **NUMERICAL)


def test_what_remains_unexplained_is_warned_of(monkeypatch):
    monkeypatch.setattr("lstmx.inspect.attribution.MOST_POINTS", 48)
    with pytest.warns(UserWarning, match=r"^integrated gradients leave more than 0.01 .* of 8 sequences, most in seq"):
        found = attribute(jumping(), 3 * data(8, 6))
    assert (found.unexplained > 0.01).any()
    with pytest.raises(ValueError, match=r"^tolerance: got -1"):
        attribute(model_of(), data(), tolerance=-1)


def test_what_other_methods_leave_is_reported():
    model, x = model_of(), data()
    for method in ("gradient_x_input", "occlusion"):
        found = attribute(model, x, method=method)
        left = found.values.sum(axis=(1, 2)) - (found.output - found.baseline_output)
        np.testing.assert_allclose(found.completeness, left, **EXACT)
        assert np.abs(found.completeness).max() > 1e-3


@methods
def test_float32_is_complete_to_its_rounding(method):
    model, x = model_of(dtype="float32"), data()
    one, two = attribute(model, x, method=method), attribute(model.astype("float64"), x, method=method)
    assert one.values.dtype == np.float64
    np.testing.assert_allclose(one.values, two.values, rtol=1e-3, atol=2e-6)


# Which output


def test_the_largest_output_is_explained_or_the_one_asked_for():
    model, x = model_of(outputs=3, activation="softmax"), data(6)
    p = model.predict(x)
    found = attribute(model, x)
    np.testing.assert_array_equal(found.chosen, p.argmax(axis=1))
    assert len(set(found.chosen)) > 1
    np.testing.assert_allclose(found.output, p.max(axis=1), **EXACT)
    second = attribute(model, x, output=1)
    np.testing.assert_allclose(second.output, p[:, 1], **EXACT)
    assert second.chosen is None
    total = attribute(model, x, output=[1.0, 1.0, 1.0])  # is always 1
    np.testing.assert_allclose(total.values, 0, atol=1e-12)


def test_logits_are_what_enters_the_last_activation():
    model, x = model_of(outputs=1, activation="sigmoid"), data()
    found = attribute(model, x, logits=True)
    np.testing.assert_allclose(1 / (1 + np.exp(-found.output)), model.predict(x)[:, 0], **EXACT)
    np.testing.assert_allclose(found.completeness, 0, **SMOOTH)


def test_a_step_is_explained_by_what_is_before_it():
    model, x, lengths = model_of(None), data(3, 6), [6, 2, 4]
    y = model.predict(x)
    last = attribute(model, x, lengths=lengths)
    np.testing.assert_allclose(last.output, y[range(3), [5, 1, 3], 0], **EXACT)
    third = attribute(model, x, step=2, lengths=lengths)
    np.testing.assert_allclose(third.output, [y[0, 2, 0], np.nan, y[2, 2, 0]], **EXACT)
    assert (third.values[:, 3:] == 0).all() and (third.values[1] == 0).all() and (third.values[0, :3] != 0).all()
    second_last = attribute(model, x, step=-2, lengths=lengths)
    np.testing.assert_allclose(second_last.output, y[range(3), [4, 0, 2], 0], **EXACT)


# Forms of X


@methods
def test_values_come_in_the_form_of_the_input(method):
    model, x = model_of(), data(3, 6)
    padded = attribute(model, x, method=method, lengths=[6, 2, 4])
    ragged = attribute(model, [x[0], x[1, :2], x[2, :4]], method=method)
    single = attribute(model, x[2, :4], method=method)
    assert isinstance(padded, Attribution) and padded.values.shape == x.shape and single.values.shape == (4, 2)
    for n, length in enumerate([6, 2, 4]):
        assert_same(ragged.values[n], padded.values[n, :length])
        assert (padded.values[n, length:] == 0).all()
    np.testing.assert_allclose(single.values, ragged.values[2], **EXACT)
    assert padded.method == method and single.output.shape == (1,)


@methods
def test_masked_steps_have_no_share(method):
    model, x = model_of(), data(2, 5)
    mask = np.ones((2, 5), bool)
    mask[0, 2] = False
    x[0, 2] = np.nan
    found = attribute(model, x, method=method, mask=mask)
    assert (found.values[0, 2] == 0).all()
    kept = attribute(model, x[0, [0, 1, 3, 4]], method=method)
    np.testing.assert_allclose(found.values[0, [0, 1, 3, 4]], kept.values, **EXACT)


def test_a_baseline_may_be_the_mask_of_a_masking_layer():
    model = Sequential([Masking(0.0), *(layer.copy() for layer in model_of().layers)])
    x = data(2, 5)
    x[1, 3] = 0
    found = attribute(model, x)
    assert (found.values[1, 3] == 0).all()
    np.testing.assert_allclose(found.completeness, 0, **SMOOTH)


def test_a_baseline_in_the_form_of_the_input():
    model, x, base = model_of(), data(3), data(3, seed=9)
    found = attribute(model, x, baseline=base, lengths=[6, 2, 4])
    np.testing.assert_allclose(found.baseline_output, model.predict(base, lengths=[6, 2, 4])[:, 0], **EXACT)
    np.testing.assert_allclose(found.completeness, 0, **SMOOTH)
    lists = attribute(model, list(x), baseline=list(base))
    np.testing.assert_allclose(lists.baseline_output, model.predict(base)[:, 0], **EXACT)


@methods
def test_tokens_have_one_value_each(method):
    layers = [Embedding(6, 3, random_state=0, dtype="float64"), LSTM(3, 5, random_state=1, dtype="float64"), Last()]
    model = Sequential([*layers, Dense(5, 1, random_state=2, dtype="float64")])
    tokens = np.array([[1, 2, 3, 0], [5, 5, 1, 2]])
    found = attribute(model, tokens, method=method)
    assert found.values.shape == (2, 4) and (found.values != 0).all()
    if method == "integrated_gradients":
        np.testing.assert_allclose(found.completeness, 0, **SMOOTH)
    ragged = attribute(model, [tokens[0, :2], tokens[1]], method=method)
    assert_same(ragged.values[1], found.values[1])


def test_many_sequences_are_explained_in_parts(monkeypatch):
    model, x = model_of(), data(11)
    whole = attribute(model, x, baseline=x[::-1])
    monkeypatch.setattr("lstmx.inspect.attribution.BATCH", 4)
    parts = attribute(model, x, baseline=x[::-1])
    np.testing.assert_allclose(parts.values, whole.values, **EXACT)
    np.testing.assert_allclose(attribute(model, list(x)).values, attribute(model, x).values, **EXACT)


@methods
def test_a_long_sequence_is_explained_whole(method):
    model, x = model_of(), data(1, 300)
    found = attribute(model, x[0], method=method, steps=4)
    assert found.values.shape == (300, 2)
    np.testing.assert_allclose(found.values, attribute(model, x, method=method, steps=4).values[0], **EXACT)


def test_the_model_stays_as_it_is():
    model, x = model_of(), data()
    before, given = {name: p.copy() for name, p in model.parameters().items()}, x.copy()
    one, two = attribute(model, x), attribute(model, x)  # no dropout
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(x, given)
    for name, p in model.parameters().items():
        np.testing.assert_array_equal(p, before[name])


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (model_of, {"method": "shap"}, ValueError, r"^method: got 'shap'"),
        (model_of, {"output": 1}, ValueError, r"^output: got 1, the model has 1 output, from 0"),
        (model_of, {"output": [1.0, 2.0]}, ValueError, r"^output: got shape \(2,\)"),
        (model_of, {"output": "a"}, TypeError, r"^output: "),
        (model_of, {"step": 1}, ValueError, r"^step: the model gives one output for a sequence"),
        (lambda: model_of(None), {"step": 6}, IndexError, r"^step: got 6, but no sequence has such a step"),
        (lambda: model_of(None), {"step": 1.5}, TypeError, r"^step: got 1.5, must be an integer"),
        (lambda: model_of(None), {"step": "last"}, TypeError, r"^step: got 'last', must be an integer"),
        (model_of, {"baseline": np.nan}, ValueError, r"^baseline: 1 of 1 values are NaN or infinite"),
        (model_of, {"baseline": np.full((3, 6, 2), np.inf)}, ValueError, r"^baseline: 36 of 36 values are NaN"),
        (model_of, {"steps": 0}, ValueError, r"^steps: got 0"),
        (model_of, {"baseline": [1.0, 2.0, 3.0]}, ValueError, r"^baseline: got shape \(3,\)"),
        (model_of, {"baseline": np.zeros(3)}, ValueError, r"^baseline: got shape \(3,\), must be a number, \(2,\)"),
        (model_of, {"baseline": np.zeros((3, 4, 3))}, ValueError, r"^baseline: must be a number, \(2,\), or as X"),
        (model_of, {"baseline": np.zeros((3, 4, 2))}, ValueError, r"^baseline: must have the steps that X has"),
        (lambda: LSTM(2, 4), {"logits": True}, ValueError, r"^logits: the model does not end with a Dense"),
        (lambda: lstmx.LSTMRegressor(), {}, TypeError, r"^model: got LSTMRegressor.*lstmx.inspect.explain"),
        (lambda: Dense(2, 1), {}, TypeError, r"^model: got Dense"),
    ],
)
def test_wrong_arguments_are_explained(model, options, error, message):
    with pytest.raises(error, match=message):
        attribute(model(), data(), **options)


def test_values_that_are_not_finite_are_an_error():
    x = data()
    x[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"^X: holds NaN or infinite values"):
        attribute(model_of(), x)


def test_no_sequences_are_an_error():
    with pytest.raises(ValueError, match=r"^X: holds no sequence"):
        attribute(model_of(), np.zeros((0, 5, 2)))


# What was planted


def planted(n, steps=20, features=3, seed=0):
    """Noise with one pulse at a random step and feature, whose sign is the label."""
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=0.3, size=(n, steps, features))
    at, column, label = rng.integers(steps, size=n), rng.integers(features, size=n), rng.integers(2, size=n)
    x[np.arange(n), at, column] += np.where(label, 3, -3)
    return x, label, at, column


@pytest.fixture(scope="module")
def classifier():
    """It has a long memory from the start: others learn the task too, but weigh the noise of the last steps more than
    pulses of the first, which attributions then show.
    """
    x, label, *_ = planted(2000)
    model = Sequential([LSTM(3, 16, chrono=20), Last(), Dense(16, 1, "sigmoid")], random_state=0)
    model.fit(x, label, loss="binary_crossentropy", optimizer=lstmx.Adam(0.01), epochs=15, verbose=0, random_state=0)
    return model


@pytest.mark.long
@methods
def test_the_planted_cause_is_found(classifier, method):
    x, label, at, column = planted(100, seed=1)
    assert ((classifier.predict(x)[:, 0] > 0.5) == label).mean() >= 0.95
    found = attribute(classifier, x, method=method, logits=True)
    place = np.abs(found.values).reshape(100, -1).argmax(axis=1)
    assert (place == at * 3 + column).sum() >= 95
