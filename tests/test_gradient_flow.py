"""`Sequential.gradient_flow`, and the norms of a `GradientFlow`.

Tolerances. FLOW: float64 sums of a few dozen terms in another order.
"""

import numpy as np
import pytest
from cell_cases import CELLS, Exact, network, problem
from lstm_cases import make
from tolerances import FINITE_DIFFERENCE, PEER

import lstmx
from lstmx import LSTM, Dense, Embedding, Last, Masking, MeanPool, Sequential
from lstmx.inspect import GradientFlow, gradient_flow
from lstmx.testing import finite_difference

FLOW = {"rtol": 1e-11, "atol": 1e-14}


def regression(*sizes, pool=Last, n=3, steps=6, **options):
    lstm = make(*sizes, **options)
    model = Sequential(
        [lstm, *([pool()] if pool else []), Dense(lstm.output_size(), 2, dtype="float64")], random_state=0
    )
    rng = np.random.default_rng(5)
    return model, rng.normal(size=(n, steps, 3)), rng.normal(size=(n, 2) if pool else (n, steps, 2))


def test_gradients_are_those_of_finite_differences():
    model, x, y = regression(3, 4)
    lstm, _, dense = model.layers
    flow, trace = model.gradient_flow(x, y), lstm.trace(x)
    for t in range(6):
        _, state = lstm(x[:, : t + 1])

        def loss(t=t, state=state):
            out = lstm(x[:, t + 1 :], state)[1][0][0]
            p = dense.parameters()
            return ((out @ p["weight"].T + p["bias"] - y) ** 2).mean(axis=1).mean()

        dh, dc = (finite_difference(loss, part)[0] for part in state)
        np.testing.assert_allclose(flow.dh[0, 0, 0][:, t], dh, **FINITE_DIFFERENCE)
        shown = trace.o[0, 0][:, t] * (1 - trace.tanh_c[0, 0][:, t] ** 2)
        np.testing.assert_allclose(flow.dc[0, 0, 0][:, t], dc + dh * shown, **FINITE_DIFFERENCE)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_every_cell_flows_as_its_reference_does(cell):
    lstm = network(cell, 3, 6, 2, proj=4, bidirectional=True)
    p, lengths = problem(lstm, 3, 5), [5, 0, 3]
    exact = Exact(lstm)
    out, _ = exact.forward(p["x"], None, lengths)
    there = (np.arange(5) < np.array(lengths)[:, None])[..., None]
    exact.backward(there * 2 * (out - p["dy"]) / out.shape[2] / 8, (np.zeros_like(p["dh"]), np.zeros_like(p["dc"])))
    flow = Sequential([lstm]).gradient_flow(p["x"], p["dy"], lengths=lengths)
    assert list(flow.dh) == list(flow.dc) == [(0, layer, d) for layer in (0, 1) for d in (0, 1)]
    for k, key in enumerate(flow.dh):
        grads = exact.grads[k]
        assert np.abs(grads.dh).max() > 1e-3 and np.abs(grads.dc).max() > 1e-3
        np.testing.assert_allclose(flow.dh[key], grads.dh, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(flow.dc[key], grads.dc, rtol=1e-9, atol=1e-12)


def test_a_model_gives_what_its_layer_gives():
    model, x, y = regression(3, 4, pool=None)
    lstm, dense = model.layers
    lengths = [6, 2, 4]
    flow = model.gradient_flow(x, y, lengths=lengths, sample_weight=[1.0, 2.0, 0.5])
    out, tape = model.forward(x, lengths=lengths)
    weight = np.repeat([1.0, 2.0, 0.5], lengths)
    dy = (out - y) * np.array([1.0, 2.0, 0.5])[:, None, None] / weight.sum()
    weights = dense.parameters()["weight"]
    own = gradient_flow(lstm, x, dy @ weights, lengths=lengths)
    np.testing.assert_allclose(flow.dh[0, 0, 0], own.dh[0, 0], **FLOW)
    np.testing.assert_allclose(flow.dc[0, 0, 0], own.dc[0, 0], **FLOW)
    model.backward(tape, dy)  # the model is as it was


def test_several_lstms_are_told_apart():
    layers = [make(3, 4), lstmx.Dropout(0.5), make(4, 5, bidirectional=True), MeanPool(), Dense(10, 1, dtype="float64")]
    model = Sequential(layers, random_state=0)
    x = np.random.default_rng(0).normal(size=(2, 5, 3))
    flow = model.gradient_flow(x, [1.0, 2.0])
    assert list(flow.dh) == [(0, 0, 0), (2, 0, 0), (2, 0, 1)]
    assert flow.dh[2, 0, 1].shape == (2, 5, 5) and flow.dc[0, 0, 0].shape == (2, 5, 4)
    np.testing.assert_array_equal(flow.dh[0, 0, 0], model.gradient_flow(x, [1.0, 2.0]).dh[0, 0, 0])  # no dropout
    assert "GradientFlow" in repr(flow)


@pytest.mark.parametrize("loss", ["mse", "categorical_crossentropy", "binary_crossentropy"])
def test_every_loss_joins_its_activation(loss):
    units, activation = {"mse": (1, "tanh"), "categorical_crossentropy": (3, "softmax"),
                         "binary_crossentropy": (1, "sigmoid")}[loss]  # fmt: skip
    model = Sequential([make(3, 4), Last(), Dense(4, units, activation, dtype="float64", random_state=0)])
    x, y = np.random.default_rng(0).normal(size=(4, 5, 3)), np.array([0, 1, 1, 0])
    dense = model.layers[-1]
    flow = model.gradient_flow(x, y, loss=loss)
    p = model.predict(x)
    if loss == "mse":
        dz = 2 * (p - y[:, None]) * (1 - p**2) / 4
    else:
        dz = (p - (np.eye(3)[y] if units == 3 else y[:, None])) / 4
    np.testing.assert_allclose(flow.dh[0, 0, 0][:, -1], dz @ dense.parameters()["weight"], **PEER["float64"])


def test_tokens_and_masked_steps_flow_too():
    model = Sequential([Embedding(5, 3, random_state=0), LSTM(3, 4), Last(), Dense(4, 1)], random_state=0)
    flow = model.gradient_flow(np.array([[1, 2, 3], [4, 0, 1]]), [0.0, 1.0])
    assert flow.dh[1, 0, 0].shape == (2, 3, 4) and (flow.dh[1, 0, 0] != 0).any(axis=2).all()
    masked = Sequential([Masking(-9), LSTM(3, 4), Last(), Dense(4, 1)], random_state=0)
    x = np.random.default_rng(0).normal(size=(2, 5, 3))
    x[0, 1] = -9
    one = masked.gradient_flow(x, [0.0, 1.0]).dc[1, 0, 0]
    assert (one[0, 1] == 0).all() and (one[0, 0] != 0).all()
    plain = Sequential([layer.copy() for layer in masked.layers[1:]])
    mask = np.ones((2, 5), bool)
    mask[0, 1] = False
    np.testing.assert_array_equal(plain.gradient_flow(x, [0.0, 1.0], mask=mask).dc[0, 0, 0], one)


# Norms


def test_norms_are_means_over_the_sequences_that_have_the_step():
    model, x, y = regression(3, 4, n=3)
    lengths = np.array([6, 0, 4])
    flow = model.gradient_flow(x, y, lengths=lengths)
    for quantity, values in (("h", flow.dh[0, 0, 0]), ("c", flow.dc[0, 0, 0])):
        each = np.linalg.norm(values, axis=2)
        start = flow.norms(quantity)[0, 0, 0]
        np.testing.assert_allclose(start[:4], each[[0, 2], :4].mean(axis=0), **FLOW)
        np.testing.assert_allclose(start[4:], each[0, 4:], **FLOW)
        end = flow.norms(quantity, align="end")[0, 0, 0]
        np.testing.assert_allclose(end[:2], each[0, :2], **FLOW)
        np.testing.assert_allclose(end[2:], (each[0, 2:] + each[2, :4]) / 2, **FLOW)
    ragged = model.gradient_flow([x[0], x[1][:0], x[2][:4]], y)
    np.testing.assert_allclose(ragged.norms("c", align="end")[0, 0, 0], end, **FLOW)


def test_norms_of_an_slstm_are_of_its_memory_alone():
    lstm = network(lstmx.Cell(slstm=True), 3, 4)
    p = problem(lstm, 2, 5)
    flow = gradient_flow(lstm, p["x"], p["dy"])
    np.testing.assert_allclose(flow.norms()[0, 0], np.linalg.norm(flow.dc[0, 0][..., :4], axis=2).mean(axis=0), **FLOW)


def test_norms_of_large_float32_gradients_do_not_overflow():
    lstm = LSTM(2, 3, random_state=0)
    flow = gradient_flow(lstm, np.zeros((4, 2)), np.full((4, 3), 1e30))
    assert np.isfinite(flow.norms("h")[0, 0]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.norms("i"), r"^quantity: got 'i'"),
        (lambda f: f.norms("c", align="middle"), r"^align: got 'middle'"),
    ],
)
def test_wrong_norms_are_explained(call, message):
    model, x, y = regression(3, 4)
    with pytest.raises(ValueError, match=message):
        call(model.gradient_flow(x, y))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": "hinge"}, ValueError, r"^loss: got 'hinge'"),
        ({"y": np.zeros((2, 2))}, ValueError, r"^y: "),
        ({"lengths": [1, 2]}, ValueError, r"^lengths: "),
        ({"mask": np.ones((3, 6), bool), "lengths": [6, 6, 6]}, ValueError, r"^mask: got lengths as well"),
    ],
)
def test_wrong_arguments_are_explained(options, error, message):
    model, x, y = regression(3, 4)
    with pytest.raises(error, match=message):
        model.gradient_flow(x, **({"y": y} | options))


def test_the_class_is_public():
    model, x, y = regression(3, 4)
    assert isinstance(model.gradient_flow(x, y), GradientFlow)
